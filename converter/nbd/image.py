"""A disk artifact as an NBD export: what a machine boots from, and what `qemu-img` exports."""

from collections.abc import Iterator

from converter.nbd.export import Extent
from dvcr.artifact.reader import ImageReader


class ImageExport:
    """Read-only; chunks are fetched as they are read. Chunks left out of the artifact are holes."""

    def __init__(self, reader: ImageReader) -> None:
        self._reader = reader
        self._stored = {chunk.index for chunk in reader.image.chunks}

    @property
    def size_bytes(self) -> int:
        """The virtual size of the disk."""
        return self._reader.size_bytes

    def read(self, offset_bytes: int, length_bytes: int) -> bytes | memoryview:
        """Exactly that many bytes, every one verified."""
        return self._reader.view_at(offset_bytes, length_bytes)

    def extents(self, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        """The range as alternating runs of stored and left-out chunks; asks the registry for nothing."""
        chunk_size = self._reader.image.chunk_size_bytes
        end = min(offset_bytes + length_bytes, self.size_bytes)
        while offset_bytes < end:
            index = offset_bytes // chunk_size
            zero = index not in self._stored
            while index * chunk_size < end and (index not in self._stored) == zero:
                index += 1
            stop = min(index * chunk_size, end)
            yield Extent(stop - offset_bytes, zero)
            offset_bytes = stop
