"""What still runs of the product that was started over a folder."""

import contextlib
import os
from pathlib import Path


def processes_of(data: Path) -> list[str]:
    """Command lines of the other processes that were started for `data`, by their arguments or environment (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # ended, or somebody else's
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            started_for = any(value == str(data) or value.startswith(f"{data}/") for value in _values(environment))
            if int(folder.name) != os.getpid() and (str(data) in command or started_for):
                found.append(command)
    return found


def _values(environment: list[str]) -> list[str]:
    return [variable.partition("=")[2] for variable in environment]
