"""The serial console: one guest, any number of onlookers.

Output goes to everyone who is attached, and to standard output so that the pod's logs show it. Who comes later gets the
recent output first. Input of all is passed on as it comes.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import structlog

from controller.launcher.serial_log import SerialLog

log = structlog.get_logger(__name__)

BACKLOG_BYTES = 64 * 1024
MAX_WAITING_PIECES = 256
READ_BYTES = 16 * 1024


class Backlog:
    """The last bytes of a stream, at most `limit_bytes` of them."""

    def __init__(self, limit_bytes: int = BACKLOG_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._pieces: deque[bytes] = deque()
        self._size_bytes = 0

    def append(self, data: bytes) -> None:
        data = data[-self._limit_bytes :]
        self._pieces.append(data)
        self._size_bytes += len(data)
        while (excess := self._size_bytes - self._limit_bytes) > 0:
            first = self._pieces.popleft()
            self._size_bytes -= len(first)
            if len(first) > excess:
                self._pieces.appendleft(first[excess:])
                self._size_bytes += len(first) - excess

    def __bytes__(self) -> bytes:
        return b"".join(self._pieces)


class Console:
    """The launcher's end of the serial line."""

    def __init__(self, sock: socket.socket, log_fd: int | None = 1, kept: SerialLog | None = None) -> None:
        """What the guest writes goes to the descriptor `log_fd`, and to `kept`."""
        self._sock = sock
        self._log_fd = log_fd
        self._kept = kept
        self._backlog = Backlog()
        self._watchers: set[asyncio.Queue[bytes | None]] = set()
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Pass the guest's output on until QEMU closes the line."""
        reader, self._writer = await asyncio.open_connection(sock=self._sock)
        loop = asyncio.get_running_loop()
        # A thread writes the log: standard output may be a pipe whose reader is slow.
        with ThreadPoolExecutor(1, "console-log") as pen:
            try:
                while data := await reader.read(READ_BYTES):
                    self._backlog.append(data)
                    for queue in list(self._watchers):
                        self._offer(queue, data)
                    if self._kept is not None:
                        await loop.run_in_executor(pen, self._kept.append, data)
                        self._kept.announce()
                    if self._log_fd is not None:
                        await loop.run_in_executor(pen, self._write_log, self._log_fd, data)
            except ConnectionError:
                pass
            finally:
                for queue in list(self._watchers):
                    self._offer(queue, None)
                if self._kept is not None:
                    self._kept.announce(ended=True)
                self._writer.close()

    def recent(self) -> bytes:
        """The newest output."""
        return bytes(self._backlog)

    async def write(self, data: bytes) -> None:
        """Type `data` on the console; waits while the guest does not take it. Lost when the machine has ended."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(data)
            await self._writer.drain()

    @contextmanager
    def watch(self) -> Iterator["asyncio.Queue[bytes | None]"]:
        """A queue of the recent output and all that follows; None at its end, also for who falls too far behind."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_WAITING_PIECES)
        if recent := bytes(self._backlog):
            queue.put_nowait(recent)
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)

    def _write_log(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(fd, view) :]
        except OSError as exc:
            # The console outlives its log: a full volume must not stop the guest.
            log.warning("the console is no longer logged", why=exc.strerror)
            self._log_fd = None

    def _offer(self, queue: "asyncio.Queue[bytes | None]", data: bytes | None) -> None:
        if data is not None and not queue.full():
            queue.put_nowait(data)
            return
        self._watchers.discard(queue)
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(None)
