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
    """One figure. `ratio` is ours over the first peer, or over the target where there is no peer."""

    row: str
    unit: str
    ours: float
    target: float
    """Highest ratio, or highest figure where there is no peer; the lowest where higher is better."""
    peers: Mapping[str, float] = field(default_factory=dict)
    higher_is_better: bool = False

    @property
    def ratio(self) -> float:
        """Ours against the first peer, or against the target; against a target of nothing, ours itself."""
        return round(self.ours / (next(iter(self.peers.values())) if self.peers else self.target or 1), 3)

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        value = self.ratio if self.peers else self.ours
        return value >= self.target if self.higher_is_better else value <= self.target


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


def write(name: str, rows: Sequence[Row], machine: str) -> None:
    """Write `bench/results/<name>.json` and print the table."""
    RESULTS.mkdir(exist_ok=True)
    values = [{**asdict(row), "ratio": row.ratio, "met": row.met, "machine": machine} for row in rows]
    (RESULTS / f"{name}.json").write_text(json.dumps(values, indent=2) + "\n")
    show(name, rows, machine)


def show(name: str, rows: Sequence[Row], machine: str) -> None:
    """Print the table."""
    table = Table("row", "unit", "ours", "peers", "ratio", "target", "met", title=name, caption=machine)
    for row in rows:
        peers = ", ".join(f"{peer}: {value:g}" for peer, value in row.peers.items())
        table.add_row(
            row.row, row.unit, f"{row.ours:g}", peers, f"{row.ratio:g}", f"{row.target:g}", "yes" if row.met else "NO"
        )
    Console().print(table)
