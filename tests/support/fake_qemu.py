"""A QEMU that is not there: its process and its monitor, which answer as a test says."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from qemu.qmp import QMPClient

from controller.launcher.copying import DiskCopies
from controller.launcher.disk_server import DiskServer
from controller.launcher.machine import Machine
from controller.launcher.qmp import Monitor


class FakeProcess:
    """Runs until it is told to end."""

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.stderr = asyncio.StreamReader()
        self._ended = asyncio.Event()

    def end(self) -> None:
        self.returncode = 0
        self.stderr.feed_eof()
        self._ended.set()

    def kill(self) -> None:
        self.end()

    async def wait(self) -> int:
        await self._ended.wait()
        return 0


class FakeQemu(Monitor):
    """The monitor: each command is noted, and answered as a test says, else as a QEMU that runs its guest would."""

    def __init__(self) -> None:
        super().__init__(QMPClient("fake"))
        self.process = FakeProcess()
        self.guest_runs = False
        self.commands: list[str] = []
        self.answers: dict[str, list[Exception | Callable[[], Any]]] = {}
        """What becomes of the next calls of a command, in order: an error, or what a function does and returns."""
        self.migration: dict[str, Any] = {}
        """What `query-migrate` tells."""
        self._queues: list[tuple[tuple[str, ...], asyncio.Queue[tuple[str, float]]]] = []

    def machine(self, folder: Path, *, incoming: bool = False) -> Machine:
        """The machine that it runs, without disks."""
        copies = DiskCopies(self, DiskServer(self, folder), folder / "nbd.sock")
        process = cast("asyncio.subprocess.Process", self.process)
        return Machine(process, self, [], copies, "tcg", incoming=incoming)

    async def execute(self, command: str, **arguments: Any) -> Any:
        self.commands.append(command)
        await asyncio.sleep(0)
        script = self.answers.get(command)
        if script:
            answer = script.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer()
        match command:
            case "cont":
                self.run()
            case "quit":
                self.process.end()
            case "query-status":
                return {"running": self.guest_runs}
            case "query-migrate":
                return self.migration
        return {}

    def run(self) -> None:
        """The guest runs, whatever the monitor says of it."""
        self.guest_runs = True
        self.tell("RESUME")

    def tell(self, name: str) -> None:
        """An event."""
        for names, queue in self._queues:
            if name in names:
                queue.put_nowait((name, asyncio.get_running_loop().time()))

    @contextmanager
    def listening(self, *names: str) -> Iterator["asyncio.Queue[tuple[str, float]]"]:
        entry = names, asyncio.Queue[tuple[str, float]]()
        self._queues.append(entry)
        try:
            yield entry[1]
        finally:
            self._queues.remove(entry)
