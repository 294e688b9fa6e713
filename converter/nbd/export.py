"""What an NBD server serves. Stated by `converter.nbd.server`, implemented by each export.

Calls come from the threads of the server, one thread a connection; errors that are DvcrErrors become EIO on the wire
and are kept for whoever started the server.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes that are all data, or all read as zero."""

    length_bytes: int
    zero: bool


class ReadableExport(Protocol):
    """A read-only export."""

    @property
    def size_bytes(self) -> int:
        """Length of the export; never changes."""
        ...

    def read(self, offset_bytes: int, length_bytes: int) -> bytes | bytearray | memoryview:
        """Exactly that many bytes; the server has checked the range."""
        ...

    def extents(self, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        """The range as runs of data and zeroes, for `base:allocation`; one data extent where nothing is known."""
        ...


class WritableExport(ReadableExport, Protocol):
    """An export that can also be written."""

    def write(self, offset_bytes: int, data: memoryview) -> None:
        """Take the bytes; `data` is only valid during the call."""
        ...

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> None:
        """As a write of zeroes, without the bytes."""
        ...

    def flush(self) -> None:
        """Return once every earlier write is where it belongs."""
        ...
