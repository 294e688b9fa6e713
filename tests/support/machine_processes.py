"""The processes behind the machines of a running product, for tests that kill them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.support.product import Product


def qemu_of(namespace: str, machine: str) -> int | None:
    """Process id of the machine's QEMU; None if there is none."""
    marker = f"guest={namespace}/{machine}"
    return next((pid for pid, command in _commands() if command[0].endswith("x86_64") and marker in command), None)


def launcher_of(namespace: str, machine: str) -> int | None:
    """Process id of the machine's launcher, which is QEMU's parent."""
    qemu = qemu_of(namespace, machine)
    if qemu is None:
        return None
    fields = (Path("/proc") / str(qemu) / "status").read_text().splitlines()
    return int(next(line.split()[1] for line in fields if line.startswith("PPid:")))


def part_of(product: Product, name: str) -> int | None:
    """Process id of a part of `dvcr up`, by its command: node, controller, ...; None while it is being restarted."""
    children = Path(f"/proc/{product.process.pid}/task/{product.process.pid}/children").read_text().split()
    own = {int(pid) for pid in children}
    return next((pid for pid, command in _commands() if pid in own and name in command), None)


def kill(pid: int | None) -> None:
    """kill -9."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def _commands() -> Iterator[tuple[int, list[str]]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            # It ended meanwhile.
            continue
        yield int(folder.name), command
