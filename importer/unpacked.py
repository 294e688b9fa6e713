"""A ByteSource over the unpacked bytes of a compressed one: one pass, readable while it arrives."""

import threading
from bisect import bisect_right
from pathlib import Path

from converter.wrappers import PIECE_BYTES, UnpackingLimits, Wrapper, unpack
from dvcr.errors import SourceError
from importer.sources.source import ImportSource
from importer.spool import Spool

WINDOW_BYTES = 16 * 2**20
_ZEROES = bytes(PIECE_BYTES)
_ALL = 2**63


class UnpackedSource:
    """Unpacks `source` in a thread of its own, a window of 16 MiB ahead of what was asked for.

    A reader that goes from front to back and calls `release` (raw and iso images) needs no scratch space: the window is
    in memory. Once a reader asks for more than the window without having released anything, all goes to a spool file
    in `scratch_dir`, where runs of zeroes take no room; NoSpaceError before the last 256 MiB there are taken.
    """

    def __init__(self, source: ImportSource, wrapper: Wrapper, limits: UnpackingLimits, scratch_dir: Path) -> None:
        self._source = source
        self._scratch_dir = scratch_dir
        self._spool: Spool | None = None
        self._changed = threading.Condition()
        # All below under `_changed`. What is held in memory: pieces, and where each begins.
        self._pieces: list[bytes] = []
        self._starts: list[int] = []
        self._unpacked = 0
        self._released = 0
        self._wanted = 0
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, args=(wrapper, limits), name="unpack", daemon=True)
        self._thread.start()

    @property
    def total_bytes(self) -> int | None:
        """The length, once the end was unpacked."""
        return self._unpacked if self._ended and self._error is None else None

    @property
    def spooled_bytes(self) -> int:
        """Bytes that the spool takes on the filesystem."""
        return self._spool.stored_bytes() if self._spool else 0

    def size_bytes(self) -> int:
        """The length; waits until all is unpacked, which is kept."""
        with self._changed:
            self._want(_ALL)
            return self._unpacked

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The bytes of that range as soon as they are unpacked, whatever happened behind them."""
        end = offset_bytes + length_bytes
        with self._changed:
            if offset_bytes < self._released:
                raise ValueError(f"bytes before {self._released} were released, {offset_bytes} is asked for")
            self._want(end)
            end = min(end, self._unpacked)
            if self._spool is None:
                return self._from_memory(offset_bytes, end)
        length_bytes = max(0, end - offset_bytes)
        return self._spool.read(offset_bytes, length_bytes).ljust(length_bytes, b"\0")

    def release(self, offset_bytes: int) -> None:
        """Forget what lies before `offset_bytes`."""
        with self._changed:
            self._released = max(self._released, offset_bytes)
            drop = bisect_right(self._starts, self._released) - 1
            if drop > 0:
                del self._pieces[:drop], self._starts[:drop]
            spool, end = self._spool, min(self._released, self._unpacked)
            self._changed.notify_all()
        if spool is not None:
            spool.punch(end)

    def finish(self) -> None:
        """Unpack what is left, without keeping it, so that all was proven good; then finish the source."""
        self.release(_ALL)
        with self._changed:
            self._want(_ALL)
        self._source.finish()

    def close(self) -> None:
        """Stop, and forget the bytes. Where not all was unpacked, the source is aborted. Idempotent."""
        with self._changed:
            self._closed = True
            ended = self._ended
            self._changed.notify_all()
        if not ended:
            self._source.abort()  # the thread may wait for its bytes
        self._thread.join()
        if self._spool is not None:
            self._spool.close()

    def _want(self, end_bytes: int) -> None:
        """Wait until so much is unpacked, or the end; raises what ended it early."""
        self._wanted = max(self._wanted, end_bytes)
        self._changed.notify_all()
        self._changed.wait_for(lambda: self._ended or self._unpacked >= end_bytes)
        if self._unpacked < end_bytes and self._error is not None:
            raise self._error

    def _from_memory(self, offset_bytes: int, end_bytes: int) -> bytes:
        if offset_bytes >= end_bytes:
            return b""
        first = bisect_right(self._starts, offset_bytes) - 1
        last = bisect_right(self._starts, end_bytes - 1)
        skip = offset_bytes - self._starts[first]
        data = b"".join(self._pieces[first:last])
        length = end_bytes - offset_bytes
        return data if len(data) == length else data[skip : skip + length]

    def _work(self, wrapper: Wrapper, limits: UnpackingLimits) -> None:
        error: BaseException | None = None
        try:
            for piece in unpack(self._source, wrapper, limits):
                if not self._keep(piece):
                    error = SourceError("the import was stopped", reason="SourceInterrupted")
                    break
        except Exception as exc:  # noqa: BLE001 (handed to the readers, which raise it)
            error = exc
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def _keep(self, piece: bytes) -> bool:
        """Wait for room, and put the piece where readers find it; False once the source was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room())
            if self._closed:
                return False
            if self._spool is None and self._wanted > self._released + WINDOW_BYTES:
                self._spool = Spool(self._scratch_dir)
                for start, held in zip(self._starts, self._pieces, strict=True):
                    self._write(self._spool, start, held)
                self._pieces, self._starts = [], []
            if self._unpacked + len(piece) <= self._released:
                pass  # nobody will ask for it
            elif self._spool is not None:
                self._write(self._spool, self._unpacked, piece)
            else:
                self._pieces.append(piece)
                self._starts.append(self._unpacked)
            self._unpacked += len(piece)
            self._changed.notify_all()
        return True

    def _has_room(self) -> bool:
        return self._unpacked < max(self._released, self._wanted) + WINDOW_BYTES

    def _write(self, spool: Spool, offset_bytes: int, piece: bytes) -> None:
        if piece != _ZEROES[: len(piece)]:
            spool.write(offset_bytes, piece)
