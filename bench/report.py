"""What every bench writes and prints: rows of ours beside peers, against a target."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One figure of ours, beside the same of peers."""

    row: str
    unit: str
    ours: float
    target: float | None
    """The lowest ratio to the first peer; where there is no peer, the figure itself. None: it is only told."""
    peers: Mapping[str, float] = field(default_factory=dict)
    higher_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than the first peer's, or than the target where there is no peer."""
        other = next(iter(self.peers.values())) if self.peers else self.target
        if other is None or self.ours == other:
            return None if other is None else 1.0
        better, worse = (self.ours, other) if self.higher_is_better else (other, self.ours)
        return round(better / worse, 3) if worse else better

    @property
    def met(self) -> bool | None:
        """Whether the target is reached."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio >= (self.target if self.peers else 1)


def machine(*version_commands: Sequence[str]) -> str:
    """The machine, and the first line that each command tells of its version, without the folder it was found in."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    versions = [
        subprocess.run(command, check=True, capture_output=True, text=True)
        .stdout.splitlines()[0]
        .removeprefix(f"{Path(command[0]).parent}/")
        for command in version_commands
    ]
    return "; ".join(
        [
            f"{os.cpu_count()} x {model}, {memory:.0f} GiB, Linux {platform.release()}",
            f"Python {platform.python_version()}",
            *versions,
        ]
    )


def write(name: str, rows: Sequence[Row], machine: str, *, keep_others: bool = False) -> None:
    """Write `bench/results/<name>.json` and print the table; rows of former runs stay where they are to be kept."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    values = {row.row: {**asdict(row), "ratio": row.ratio, "met": row.met, "machine": machine} for row in rows}
    if keep_others:
        values = {former["row"]: former for former in json.loads(file.read_text())} | values
    file.write_text(json.dumps(list(values.values()), indent=2) + "\n")
    show(name, rows, machine)


def show(name: str, rows: Sequence[Row], machine: str) -> None:
    """Print the table."""
    table = Table("row", "unit", "ours", "peers", "ratio", "target", "met", title=name, caption=machine)
    for row in rows:
        peers = ", ".join(f"{peer}: {value:g}" for peer, value in row.peers.items())
        met = {True: "yes", False: "NO", None: ""}[row.met]
        table.add_row(row.row, row.unit, f"{row.ours:g}", peers, _figure(row.ratio), _figure(row.target), met)
    Console().print(table)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
