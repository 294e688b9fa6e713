"""A ByteSource over bytes that come in order: one pass over them, readable while they arrive."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from dvcr.errors import NoSpaceError, SourceError
from importer.checksums import Checksums
from importer.spool import Spool
from importer.window import Window

WINDOW_BYTES = 16 * 2**20
_EVERYTHING = 2**63
_REREAD_BYTES = 2**20
_SILENT_S = 5.0


class Download(Protocol):
    """Bytes in order, once. `pieces` is read in one thread; `stop` may be called from another."""

    @property
    def total_bytes(self) -> int | None:
        """The length, where it is known already."""
        ...

    def pieces(self) -> Iterator[bytes]:
        """The bytes, in pieces of about 1 MiB at most; SourceError. Ends early, without an error, only after `stop`."""
        ...

    def identity(self) -> Mapping[str, Any] | None:
        """What `resume` needs later, in JSON; None where nothing could prove that the bytes are still the same."""
        ...

    def resume(self, position: int, identity: Mapping[str, Any]) -> bool:
        """Let `pieces` begin at `position`, if it is proved that the bytes are those that had this identity.

        SourceError where that cannot be found out at the moment.
        """
        ...

    @property
    def trouble(self) -> str:
        """What went wrong since the last byte, and that it is tried again; empty if nothing did."""
        ...

    def stop(self) -> None:
        """End `pieces` within moments, also while the server is silent. Idempotent."""
        ...

    def close(self) -> None:
        """Free the connections."""
        ...


@runtime_checkable
class RangedDownload(Download, Protocol):
    """A download that can also fetch a little ahead of its turn."""

    def read_range(self, offset_bytes: int, length_bytes: int) -> bytes | None:
        """Exactly that range of the same file, from any thread; None where the server does not give it."""
        ...


class SpooledSource:
    """The bytes of a download. A thread fetches them and computes the promised checksums on the way.

    What was fetched is in memory, up to a window beyond what was released; then the download waits for the reader. A
    reader that calls `release` as it goes (raw, iso and qcow2 images are read from front to end) needs no more. Once
    one asks for what lies beyond the window, everything is spooled to a file from there on; NoSpaceError at once where
    it cannot fit. A source of more than `max_bytes` is given up: SourceError `SourceTooLarge`.

    A spool that holds bytes of an earlier delivery of the same job saves fetching them again, if the download can
    prove that they are still what its server has. They are read once more for the checksums.
    """

    def __init__(
        self,
        download: Download,
        checksums: Checksums,
        spool: Spool,
        *,
        max_bytes: int,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self._checksums = checksums
        self._spool = spool
        self._max_bytes = max_bytes
        self._window_bytes = window_bytes
        self._download = download
        self._changed = threading.Condition()
        # All below under `_changed`.
        self._window = Window()
        self._spooling = False
        self._fetched = 0
        self._released = 0
        self._wanted = 0
        self._spooled_whole: bool | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False
        self._asked_at: float | None = None
        self._thread = threading.Thread(target=self._fetch, name="source", daemon=True)
        self._thread.start()

    @property
    def fetched_bytes(self) -> int:
        """Bytes received so far."""
        return self._fetched

    @property
    def total_bytes(self) -> int | None:
        """The length, where the server told it or the end was reached."""
        return self._download.total_bytes

    @property
    def trouble(self) -> str:
        """Why no bytes come, once that has lasted for some seconds; empty while the reader is waited for."""
        asked_at = self._asked_at
        if asked_at is None:
            return ""
        silent_s = time.monotonic() - asked_at
        silence = f"no bytes from the source for {silent_s:.0f} s" if silent_s >= _SILENT_S else ""
        return ": ".join(filter(None, (silence, self._download.trouble)))

    @property
    def spooled_bytes(self) -> int:
        """Bytes that the spool takes on the filesystem."""
        return self._spool.stored_bytes()

    @property
    def window_bytes(self) -> int:
        """How far beyond the released bytes may be read without a file."""
        return self._window_bytes

    def read_ahead(self, offset_bytes: int, length_bytes: int) -> bytes | None:
        """The range by a request of its own, unless it is here; None where the server does not give it."""
        with self._changed:
            here = self._ended or (self._released <= offset_bytes and offset_bytes + length_bytes <= self._fetched)
        if here:
            return self.read_at(offset_bytes, length_bytes)
        if not isinstance(self._download, RangedDownload):
            return None
        return self._download.read_range(offset_bytes, length_bytes)

    def size_bytes(self) -> int:
        """The length; waits for the first answer, or for the end where the server did not announce it."""
        with self._changed:
            if self._fetched == 0:
                self._wait(lambda: self._fetched > 0)
            if self._download.total_bytes is None:
                self._wanted = _EVERYTHING
                self._changed.notify_all()
                self._wait(lambda: False)
            return self._fetched if self._download.total_bytes is None else self._download.total_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The bytes of that range as soon as they are here, whatever happened behind them."""
        end = offset_bytes + length_bytes
        with self._changed:
            if offset_bytes < self._released:
                raise ValueError(f"bytes before {self._released} were released, {offset_bytes} is asked for")
            if end > self._wanted:
                self._wanted = end
                self._changed.notify_all()
            self._wait(lambda: self._fetched >= end)
            end = max(offset_bytes, min(end, self._fetched))
            views = None if self._spooling else self._window.views(offset_bytes, end)
        return self._spool.read(offset_bytes, end - offset_bytes) if views is None else b"".join(views)

    def release(self, offset_bytes: int) -> None:
        """Free what lies before `offset_bytes`; from now on at most a window is held beyond it."""
        with self._changed:
            if offset_bytes <= self._released:
                return
            self._released = offset_bytes
            self._window.drop(min(offset_bytes, self._fetched))
            self._changed.notify_all()
        if self._spooling:
            self._spool.punch(min(offset_bytes, self._fetched))

    def finish(self) -> None:
        """Fetch what is left, without keeping it, and check the promised checksums."""
        with self._changed:
            self._released = _EVERYTHING
            self._changed.notify_all()
            self._wait(lambda: False)
        self._checksums.verify()

    def close(self) -> None:
        """Stop fetching; readers that wait get SourceError. Idempotent.

        What was spooled for a job stays until it is discarded, but not on a filesystem that it has filled: imports that
        each fit alone would wait for each other's room.
        """
        self.abort()
        self._thread.join()
        self._spool.close(keep=not isinstance(self._error, NoSpaceError))

    def abort(self) -> None:
        """Stop fetching, from any thread; readers that wait get SourceError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._download.stop()

    def _wait(self, arrived: Callable[[], bool]) -> None:
        """Wait until `arrived`, or the end; raises what ended the download early."""
        while not arrived() and not self._ended and not self._closed:
            self._changed.wait()
        if not arrived() and self._error is not None:
            raise self._error
        if not arrived() and self._closed:
            raise SourceError("the import was stopped", reason="SourceInterrupted")

    def _fetch(self) -> None:
        error: BaseException | None = None
        try:
            self._take_up()
            noted = self._fetched > 0
            for piece in self._waited_for(self._download.pieces()):
                if not noted:
                    self._spool.note(self._download.identity())
                    noted = True
                self._check_size(self._fetched + len(piece))
                if not self._make_room(len(piece)):
                    break
                self._checksums.update(piece)
                needed = self._fetched + len(piece) > self._released
                if self._spooling and needed:
                    self._spool.write(self._fetched, piece)
                with self._changed:
                    if self._spooling or not needed:
                        self._window.skip(len(piece))
                    else:
                        self._window.append(piece)
                    self._fetched += len(piece)
                    self._changed.notify_all()
        except Exception as exc:  # noqa: BLE001 (handed to the readers, which raise it)
            error = exc
        finally:
            if self._closed:  # a download that is stopped may fail in many ways
                error = SourceError("the import was stopped", reason="SourceInterrupted")
            self._download.close()
            with self._changed:
                self._ended, self._error = True, error
                self._changed.notify_all()

    def _waited_for(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The pieces; while the next one is waited for, `trouble` knows since when."""
        while True:
            self._asked_at = time.monotonic()
            piece = next(pieces, None)
            self._asked_at = None
            if piece is None:
                return
            yield piece

    def _take_up(self) -> None:
        """Begin with what an earlier delivery had fetched."""
        identity, position = self._spool.identity, self._spool.kept_bytes
        self._asked_at = time.monotonic()
        resumed = identity is not None and self._download.resume(position, identity)
        self._asked_at = None
        if not resumed:
            self._spool.restart()
            return
        self._spooling = True
        # Not before they are in the checksums: who reads them may release them.
        for offset in range(0, position, _REREAD_BYTES):
            length = min(_REREAD_BYTES, position - offset)
            if self._checksums.promised:
                self._checksums.update(self._spool.read(offset, length))
            with self._changed:
                self._fetched = offset + length
                self._changed.notify_all()
            if self._closed:
                return

    def _check_size(self, came_bytes: int) -> None:
        total = self._download.total_bytes
        if max(came_bytes, total or 0) > self._max_bytes:
            size = f"has sent {came_bytes} bytes and no end" if total is None else f"has {total} bytes"
            raise SourceError(
                f"the source {size}; importer.max_source_bytes allows {self._max_bytes}", reason="SourceTooLarge"
            )

    def _make_room(self, length_bytes: int) -> bool:
        """Wait until the spool may take that many bytes more; False once the source was closed."""
        with self._changed:
            end = self._fetched + length_bytes
            while not self._closed and end > (limit := self._released + self._window_bytes):
                if self._fetched < self._wanted <= limit:
                    break  # over the limit by less than a piece, and a reader waits for it
                if (self._spooling and self._released == 0) or self._wanted > limit:
                    # Nobody releases, or what is asked for lies beyond the window: the rest must be kept.
                    if self._fits():
                        self._spool_window()
                        break
                    if self._wanted > self._fetched:
                        raise NoSpaceError(self._lack())
                self._changed.wait()
            return not self._closed

    def _spool_window(self) -> None:
        if not self._spooling:
            self._spool.punch(self._released)
            offset = self._window.start
            for view in self._window.views(offset, self._window.end):
                self._spool.write(offset, view)
                offset += len(view)
            self._window.drop(offset)
            self._spooling = True

    def _fits(self) -> bool:
        if self._spooled_whole is None:
            total = self._download.total_bytes
            self._spooled_whole = total is None or total - self._fetched <= self._spool.room_bytes()
        return self._spooled_whole

    def _lack(self) -> str:
        return (
            f"the source has {self._download.total_bytes} bytes, of which all must be kept during the conversion, and "
            f"importer.scratch_dir has room for {self._spool.room_bytes()}; free some space, or set it elsewhere"
        )
