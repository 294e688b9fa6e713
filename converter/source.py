"""The port through which the converter reads an image that may still be arriving."""

from typing import Protocol


class ByteSource(Protocol):
    """The bytes of a source image, as fetched. Safe from any thread.

    Every method may raise SourceError when the bytes cannot be had any more.
    """

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
