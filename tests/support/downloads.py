"""Downloads without a server, and a spool that tells whether it was needed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from importer.checksums import Checksums
from importer.sources.spooled import SpooledSource
from importer.spool import Spool

PIECE_BYTES = 2**20
_ZEROES = bytes(PIECE_BYTES)


class MemoryDownload:
    """A RangedDownload of bytes; a server without ranges, or without a Content-Length, where that is asked for.

    An endless one goes on with zeroes, and no length is announced.
    """

    trouble = ""

    def __init__(self, data: bytes, *, ranges: bool = True, announced: bool = True, endless: bool = False) -> None:
        self._data = data
        self._ranges = ranges
        self._announced = announced and not endless
        self._endless = endless
        self._stopped = False

    @property
    def total_bytes(self) -> int | None:
        return len(self._data) if self._announced else None

    def pieces(self) -> Iterator[bytes]:
        for at in range(0, len(self._data), PIECE_BYTES):
            if self._stopped:
                return
            yield self._data[at : at + PIECE_BYTES]
        while self._endless and not self._stopped:
            yield _ZEROES

    def identity(self) -> Mapping[str, Any] | None:
        return None

    def resume(self, position: int, identity: Mapping[str, Any]) -> bool:
        return False

    def read_range(self, offset_bytes: int, length_bytes: int) -> bytes | None:
        return self._data[offset_bytes : offset_bytes + length_bytes] if self._ranges else None

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        pass


class WatchedSpool(Spool):
    """Counts what was ever written to it."""

    written_bytes = 0

    def write(self, offset_bytes: int, data: bytes | memoryview) -> None:
        self.written_bytes += len(data)
        super().write(offset_bytes, data)


def watched_source(
    folder: Path, download: MemoryDownload, *, max_bytes: int = 2**40
) -> tuple[SpooledSource, WatchedSpool]:
    """The source over the download, with the usual window."""
    spool = WatchedSpool(folder)
    return SpooledSource(download, Checksums({}), spool, max_bytes=max_bytes), spool
