"""What the guest wrote to its serial console, kept in files of a bounded size: of this run, and of the one before.

    serial.log, serial.log.1                      this run: its newest bytes, and those before them
    serial.previous.log, serial.previous.log.1    the run before

A byte's position is its number among all that the run has written; the oldest bytes go when there are too many.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import structlog

READ_BYTES = 64 * 1024
CURRENT, PREVIOUS = "serial.log", "serial.previous.log"
OLDER = ".1"

log = structlog.get_logger(__name__)


class SerialLog:
    """The log of one run. `append` and `read` are thread-safe; the rest belongs to the event loop."""

    def __init__(self, folder: Path, limit_bytes: int, *, resumed: bool = False) -> None:
        """Keeps at most `limit_bytes` of each run in `folder`; nothing there is touched before the first byte.

        A run that is `resumed` (it has moved here from another pod) goes on with its log.
        """
        self._folder = folder
        self._half_bytes = max(1, limit_bytes // 2)
        self._resumed = resumed
        self._lock = threading.Lock()
        self._file: int | None = None
        self._broken = False
        # Positions of the first byte of the older file, of the newer one, and of the next byte.
        self._older, self._newer, self._end = 0, 0, 0
        self._ended = False
        self._changed = asyncio.Event()

    def append(self, data: bytes) -> None:
        """Keep `data`. A folder that cannot take it ends the log, not the console."""
        with self._lock:
            if self._broken:
                return
            try:
                if self._file is None:
                    self._file = self._begin()
                elif self._end - self._newer >= self._half_bytes:
                    self._file = self._rotate(self._file)
                view = memoryview(data)
                while view:
                    written = os.write(self._file, view)
                    self._end += written
                    view = view[written:]
            except OSError as exc:
                # The console outlives its log: a full volume must not stop the guest.
                log.warning("the serial console is no longer kept", folder=str(self._folder), why=exc.strerror)
                self._broken = True

    def read(self, position: int) -> tuple[bytes, int]:
        """Some bytes from `position` on, or from the oldest that are left, and the position behind them."""
        with self._lock:
            # Asked for once the machine is here: nobody else writes any more.
            if self._file is None and self._resumed and self._path(CURRENT).exists():
                self._file = self._begin()
            position = max(position, self._older)
            if self._file is None or position >= self._end:
                return b"", position
            path, start = (self._path(CURRENT), self._newer)
            if position < self._newer:
                path, start = self._path(CURRENT + OLDER), self._older
            with path.open("rb") as file:
                file.seek(position - start)
                data = file.read(READ_BYTES)
            return data, position + len(data)

    def announce(self, *, ended: bool = False) -> None:
        """Wake who follows: there is more, or nothing will come any more."""
        self._ended = self._ended or ended
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def pieces(self, *, follow: bool) -> AsyncIterator[bytes]:
        """The log of this run; with `follow` up to its end."""
        position = 0
        while True:
            changed, ended = self._changed, self._ended
            data, position = await asyncio.to_thread(self.read, position)
            if data:
                yield data
            elif ended or not follow:
                return
            else:
                await changed.wait()

    def previous(self) -> Iterator[bytes]:
        """The log of the run before, empty if there is none. Blocks."""
        name = CURRENT if self._file is None and not self._resumed else PREVIOUS
        for part in (name + OLDER, name):
            with suppress(FileNotFoundError), self._path(part).open("rb") as file:
                while data := file.read(READ_BYTES):
                    yield data

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)

    def _begin(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._resumed:
            for part in ("", OLDER):
                self._path(PREVIOUS + part).unlink(missing_ok=True)
                with suppress(FileNotFoundError):
                    self._path(CURRENT + part).rename(self._path(PREVIOUS + part))
        file = self._open()
        with suppress(FileNotFoundError):
            self._newer = self._path(CURRENT + OLDER).stat().st_size
        self._end = self._newer + os.fstat(file).st_size
        return file

    def _rotate(self, file: int) -> int:
        os.close(file)
        self._path(CURRENT).replace(self._path(CURRENT + OLDER))
        self._older, self._newer = self._newer, self._end
        return self._open()

    def _open(self) -> int:
        return os.open(self._path(CURRENT), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _path(self, name: str) -> Path:
        return self._folder / name
