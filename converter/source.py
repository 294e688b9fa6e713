"""The port through which the converter reads an image that may still be arriving."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from dvcr.errors import SourceError


class ByteSource(Protocol):
    """The bytes of a source image, as fetched. Safe from any thread.

    Every method may raise SourceError when the bytes cannot be had any more.
    """

    @property
    def total_bytes(self) -> int | None:
        """The length, where it is known already: never waits."""
        ...

    def size_bytes(self) -> int:
        """The total length. Waits for the end of the source where its length was not announced."""
        ...

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The bytes of that range, as soon as they are here. Shorter than asked only at the end of the source."""
        ...

    def release(self, offset_bytes: int) -> None:
        """Promise that nothing before `offset_bytes` will be read again, so that its place may be freed."""
        ...

    def finish(self) -> None:
        """Wait until every byte was fetched and check the promised checksums; IntegrityError if one does not match."""
        ...


@runtime_checkable
class StreamingSource(ByteSource, Protocol):
    """A ByteSource that keeps only a window of its bytes, in memory, for whoever releases them as it goes."""

    @property
    def window_bytes(self) -> int:
        """How far beyond what was released last bytes may be read so that nothing has to be kept elsewhere."""
        ...

    def read_ahead(self, offset_bytes: int, length_bytes: int) -> bytes | None:
        """As `read_at`, for a little that is wanted before its turn; None where the source cannot fetch it so."""
        ...


class AheadSource:
    """A source whose bytes are asked for ahead of their turn where it can do that; remembers what was read so.

    No checksum covers such bytes: `confirm` compares them with those that come in their turn.
    """

    def __init__(self, source: ByteSource) -> None:
        self.taken: list[tuple[int, bytes]] = []
        """Each range that was read: its offset and its bytes."""
        self._source = source

    @property
    def total_bytes(self) -> int | None:
        """That of the source."""
        return self._source.total_bytes

    def size_bytes(self) -> int:
        """That of the source."""
        return self._source.size_bytes()

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The bytes of that range, without waiting for those before it if possible."""
        data = None
        if isinstance(self._source, StreamingSource):
            data = self._source.read_ahead(offset_bytes, length_bytes)
        if data is None:
            data = self._source.read_at(offset_bytes, length_bytes)
        self.taken.append((offset_bytes, data))
        return data

    def release(self, offset_bytes: int) -> None:
        """Pass it on."""
        self._source.release(offset_bytes)

    def finish(self) -> None:
        """Pass it on."""
        self._source.finish()


def confirm(source: ByteSource, taken: Iterable[tuple[int, bytes]]) -> None:
    """Raise SourceError `SourceChanged` unless the source has these bytes, by offset, in their turn."""
    if any(source.read_at(offset, len(data)) != data for offset, data in taken):
        raise changed()


def changed() -> SourceError:
    """The error for a source whose bytes depend on how it is asked."""
    return SourceError(
        "the source gave other bytes when it was asked for a part than it gave as a whole; try again",
        reason="SourceChanged",
    )
