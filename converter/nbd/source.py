"""The bytes of a source image as a read-only NBD export."""

from collections.abc import Iterator

from converter.nbd.export import Extent
from converter.source import ByteSource
from dvcr.errors import ImageError

SECTOR_BYTES = 512
# More than any offset a format can name, so that qemu asks for what is missing instead of taking it for zeroes.
OPEN_END_BYTES = 2**62


class SourceExport:
    """Serves a ByteSource; a read waits until the source has the bytes.

    qemu takes what lies past the end of a file for zeroes, and so converts a truncated image without a word. The export
    therefore has no end, and a read past the source's end raises ImageError `TruncatedImage`. Only the rest of the last
    sector reads as zero, and with `read_ahead` (formats whose drivers read more than they need) whatever follows bytes
    that are there. `exact_length` is for formats that find their metadata from the end of the file.
    """

    def __init__(self, source: ByteSource, *, exact_length: bool = False, read_ahead: bool = False) -> None:
        self.read_past_end = False
        """Whether bytes were asked for that the source does not have."""
        self._source = source
        self._read_ahead = read_ahead
        self.size_bytes = source.size_bytes() if exact_length else OPEN_END_BYTES

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The bytes of the range, padded with zeroes as the class says."""
        data = self._source.read_at(offset_bytes, length_bytes)
        missing = length_bytes - len(data)
        if not missing:
            return data
        end = offset_bytes + len(data)
        if offset_bytes == 0:
            # A look at the header, as long as a header may ever be; data never begins there.
            return data + bytes(missing)
        in_last_sector = offset_bytes + length_bytes <= -(-end // SECTOR_BYTES) * SECTOR_BYTES
        self.read_past_end |= not in_last_sector
        if not in_last_sector and not (self._read_ahead and data):
            raise ImageError(
                f"the image is cut off: it refers to byte {offset_bytes + length_bytes}, but ends before",
                reason="TruncatedImage",
            )
        return data + bytes(missing)

    def extents(self, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        """One run of data: nothing is known about bytes that may still be arriving."""
        yield Extent(length_bytes, zero=False)
