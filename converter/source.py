"""The port through which the converter reads an image that may still be arriving."""

from typing import Protocol, runtime_checkable


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
