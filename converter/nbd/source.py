"""The bytes of a source image as a read-only NBD export."""

from collections.abc import Iterator

from converter.nbd.export import Extent
from converter.source import ByteSource
from dvcr.errors import ImageError

SECTOR_BYTES = 512
# More than any offset a format can name, so that qemu asks for what is missing instead of taking it for zeroes.
OPEN_END_BYTES = 2**62
FREE_BYTES = 256 * 2**20


class SourceExport:
    """Serves a ByteSource; a read waits until the source has the bytes.

    qemu takes what lies past the end of a file for zeroes, and so converts a truncated image without a word. The export
    therefore has no end, and a read past the source's end raises ImageError `TruncatedImage`. Only the rest of the last
    sector reads as zero. `exact_length` is for formats that find their metadata from the end of the file.

    Tables that name the same bytes again and again make a reader ask for them again and again. With `max_reads` that
    ends with ImageError `CorruptImage`: so often may be read what lies before the furthest byte that was asked for, on
    average, beyond 256 MiB.
    """

    def __init__(self, source: ByteSource, *, exact_length: bool = False, max_reads: int | None = None) -> None:
        self.read_past_end = False
        """Whether bytes were asked for that the source does not have."""
        self.furthest_bytes = 0
        """The end of the furthest byte that was read."""
        self._source = source
        self._max_reads = max_reads
        self._served_bytes = 0
        self.size_bytes = source.size_bytes() if exact_length else OPEN_END_BYTES

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The bytes of the range, padded with zeroes as the class says."""
        data = self._source.read_at(offset_bytes, length_bytes)
        self._count(offset_bytes, len(data))
        missing = length_bytes - len(data)
        if not missing:
            return data
        end = offset_bytes + len(data)
        if offset_bytes == 0:
            # A look at the header, as long as a header may ever be; data never begins there.
            return data + bytes(missing)
        if offset_bytes + length_bytes > -(-end // SECTOR_BYTES) * SECTOR_BYTES:
            self.read_past_end = True
            raise ImageError(
                f"the image is cut off: it refers to byte {offset_bytes + length_bytes}, but ends before",
                reason="TruncatedImage",
            )
        return data + bytes(missing)

    def _count(self, offset_bytes: int, length_bytes: int) -> None:
        self.furthest_bytes = max(self.furthest_bytes, offset_bytes + length_bytes)
        self._served_bytes += length_bytes
        if self._max_reads is not None and self._served_bytes > FREE_BYTES + self._max_reads * self.furthest_bytes:
            raise ImageError(
                "the image uses the same bytes for many places of the disk; it is damaged or made to deceive",
                reason="CorruptImage",
            )

    def extents(self, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        """One run of data: nothing is known about bytes that may still be arriving."""
        yield Extent(length_bytes, zero=False)
