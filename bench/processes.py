"""Children of a bench, and what they and their children take: memory, scratch space, processor time."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(".cache/bench")
DVCR = Path(sys.executable).with_name("dvcr")
MIB = 2**20
SAMPLE_S = 0.05
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@contextmanager
def child(
    *command: str, environment: Mapping[str, str] | None = None, ready: Path | None = None
) -> Iterator[tuple[str, int]]:
    """A process that is ready, by its first line or by a socket: the last word of that line, and its process id."""
    if command[0] == "dvcr":
        command = (str(DVCR), *command[1:])
    process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        word = ""
        if ready is None:
            word = (process.stdout.readline().split() or [""])[-1]
        while ready is not None and not ready.exists():
            time.sleep(0.01)
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)} did not start")
        yield word, process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@dataclass
class Peaks:
    """The highest of what was seen, in bytes."""

    rss: int = 0
    """The process and all its descendants."""
    import_rss: int = 0
    """One child of the process, which runs one import, and its descendants."""
    scratch: int = 0
    """Bytes on disk of files in the scratch folder, named or not."""


@contextmanager
def peaks(pid: int, scratch: Path) -> Iterator[Peaks]:
    """Watch the process and its descendants.

    Memory counts where it is seen in two samples in a row: between vfork and exec a child counts all that its parent
    has a second time.
    """
    highest, done = Peaks(), threading.Event()

    def sample() -> None:
        last = (0, 0)
        while not done.wait(SAMPLE_S):
            parts = [tree_rss(one) for one in _children(pid)]
            now = (sum(parts) + _rss(pid), max(parts, default=0))
            highest.rss = max(highest.rss, min(last[0], now[0]))
            highest.import_rss = max(highest.import_rss, min(last[1], now[1]))
            highest.scratch = max(highest.scratch, _scratch_bytes(pid, scratch.resolve()))
            last = now

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    return [pid, *(below for one in _children(pid) for below in tree(one))]


def tree_rss(pid: int) -> int:
    """RSS of a process and all its descendants in bytes. Pages that they share count once for each."""
    return sum(map(_rss, tree(pid)))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its descendants, and of those of them that have ended."""
    ticks = 0
    for one in tree(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS_PER_S


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:
        return []


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _scratch_bytes(pid: int, folder: Path) -> int:
    """Files that the processes have open below the folder; most of them have no name there."""
    seen: dict[int, int] = {}
    for one in tree(pid):
        try:
            for fd in Path(f"/proc/{one}/fd").iterdir():
                if os.readlink(fd).startswith(f"{folder}/"):  # noqa: PTH115 (readlink of a name that need not exist)
                    status = fd.stat()
                    seen[status.st_ino] = status.st_blocks * 512
        except OSError:
            continue
    return sum(seen.values())
