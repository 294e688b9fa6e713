"""QEMU's monitor protocol (QMP), over the library `qemu.qmp`: commands, and the events as a stream."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError, Runstate
from qemu.qmp.events import EventListener

from controller.launcher.argv import file_set
from dvcr.errors import DvcrError, StorageError

COMMAND_TIMEOUT_S = 30.0

# The library tells of each connection's normal end.
logging.getLogger("qemu.qmp").setLevel(logging.WARNING)


class MonitorError(DvcrError):
    """QEMU refused a command, or is gone."""

    default_reason = "MachineMonitorFailed"


@dataclass(frozen=True, slots=True)
class MonitorEvent:
    """Something that QEMU tells unasked, by its name in the QMP reference."""

    name: str
    data: Mapping[str, Any]


class Monitor:
    """A session with one QEMU process. Not safe from other threads than the event loop's."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client
        self._events: asyncio.Queue[MonitorEvent] = asyncio.Queue()
        self._client.register_listener(EventListener(event_filter=self._note))

    @classmethod
    async def connect(cls, sock: socket.socket) -> Self:
        """Greet QEMU at the other end of `sock`; MonitorError if there is none."""
        client = QMPClient("machine")
        monitor = cls(client)
        try:
            await asyncio.wait_for(client.connect(sock), COMMAND_TIMEOUT_S)
        except (QMPError, EOFError, OSError, TimeoutError) as exc:
            raise MonitorError(f"QEMU does not answer: {exc or type(exc).__name__}") from exc
        return monitor

    async def execute(self, command: str, **arguments: Any) -> Any:
        """The answer to a command. Underscores in the names of arguments stand for hyphens."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            return await asyncio.wait_for(self._client.execute(command, named), COMMAND_TIMEOUT_S)
        except ExecuteError as exc:
            raise MonitorError(f"QEMU refused {command}: {exc}") from exc
        except (QMPError, EOFError, OSError, TimeoutError) as exc:
            raise MonitorError(f"QEMU did not answer {command}: {exc or type(exc).__name__}") from exc

    async def hand_over(self, path: Path) -> str:
        """Give QEMU the file at `path`, open for reading and writing; returns the name by which it opens it.

        Raises StorageError if the file cannot be opened. `take_back` is due once QEMU has closed it.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            raise StorageError(f"cannot open {path}: {exc.strerror}") from exc
        try:
            self._client.send_fd_scm(fd)
            answer = await self.execute("add-fd")
        finally:
            os.close(fd)
        return file_set(answer["fdset-id"])

    async def take_back(self, file: str) -> None:
        """Have QEMU forget a file that it was given."""
        await self.execute("remove-fd", fdset_id=int(file.rpartition("/")[2]))

    async def events(self) -> AsyncIterator[MonitorEvent]:
        """Every event since the session began, in order, up to the last before QEMU's end."""
        ended = asyncio.create_task(self._ended())
        while True:
            if self._events.empty():
                arrived = asyncio.create_task(self._events.get())
                await asyncio.wait((arrived, ended), return_when=asyncio.FIRST_COMPLETED)
                if not arrived.done():
                    arrived.cancel()
                    return
                yield arrived.result()
            else:
                yield await self._events.get()

    async def execute_until(
        self, accept: Callable[[MonitorEvent], bool], timeout_s: float, command: str, **arguments: Any
    ) -> MonitorEvent | None:
        """Execute a command and wait for the first event that `accept` takes; None if it does not come in time."""
        with self._client.listener(event_filter=lambda message: accept(_event(message))) as listener:
            await self.execute(command, **arguments)
            try:
                return _event(await asyncio.wait_for(listener.get(), timeout_s))
            except TimeoutError:
                return None

    @contextmanager
    def listening(self, *names: str) -> Iterator["asyncio.Queue[tuple[str, float]]"]:
        """A queue of the events with these names, each with the time (monotonic) at which it came."""
        queue: asyncio.Queue[tuple[str, float]] = asyncio.Queue()

        def note(message: Message) -> bool:
            queue.put_nowait((cast("str", message["event"]), time.monotonic()))
            return False  # nothing is left to the listener itself

        with self._client.listener(names, note):
            yield queue

    def _note(self, message: Message) -> bool:
        """Take the event away from the library's listener, which would keep every one that it took."""
        self._events.put_nowait(_event(message))
        return False

    async def _ended(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()

    async def close(self) -> None:
        """End the session; what went wrong with it before no longer matters."""
        try:
            await self._client.disconnect()
        except (QMPError, EOFError, OSError):
            return


def _event(message: Message) -> MonitorEvent:
    return MonitorEvent(cast("str", message["event"]), cast("Mapping[str, Any]", message.get("data", {})))
