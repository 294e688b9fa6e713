"""How much memory this process takes at most while something runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs


@dataclass
class Peak:
    """In bytes, once it is over."""

    grown: int = 0
    """More than at its beginning."""
    total: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Watch the resident memory of this process, all threads."""
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    before, peak = _status("VmRSS"), Peak()
    yield peak
    peak.total = _status("VmHWM")
    peak.grown = peak.total - before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)
