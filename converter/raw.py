"""A raw disk, an ISO or a VHD of fixed size, copied in one pass while it arrives."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from converter import headers
from converter.inspect import ImageFormat, ImageInfo
from converter.nbd.sink import ChunkSink
from converter.partitions import refuse_cut
from converter.source import AheadSource, ByteSource
from dvcr.artifact.chunk import is_zero
from dvcr.artifact.image import MAX_CHUNKS, chunk_size_bytes
from dvcr.errors import ImageError

SECTOR_BYTES = 512
PIECE_BYTES = 4 * 2**20
"""What is read at once: a chunk, where chunks are small, and never more than a source keeps in memory."""
# A VHD's geometry may leave out less than a cylinder; and then there is its footer.
_VHD_MARGIN_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class RawCopy:
    """What was copied; a VHD of fixed size is a raw disk with a sector behind it that tells so."""

    format: ImageFormat
    virtual_size_bytes: int


def sink_size_bytes(source: ByteSource, info: ImageInfo, limit_bytes: int) -> int:
    """Of the sink: the size of the disk, or all that chunks of the right size can hold where the size is not known."""
    size = info.virtual_size_bytes
    if not size:
        return chunk_size_bytes(min(info.declared.likely_bytes, limit_bytes)) * MAX_CHUNKS
    if chunk_size_bytes(size) != chunk_size_bytes(max(size - _VHD_MARGIN_BYTES, 0)):
        # A VHD's footer would make a difference to the size of the chunks, so its end has to be waited for.
        footer = _last_sector(source, size)
        if headers.is_fixed_vhd(footer):
            return headers.fixed_vhd_size(footer, size)
    return size


def _last_sector(source: ByteSource, size_bytes: int) -> bytes:
    """By a request of its own where that is possible; what is read so is only a guess, and read again in its turn."""
    return AheadSource(source).read_at(size_bytes - SECTOR_BYTES, SECTOR_BYTES)


def copy_raw(
    source: ByteSource, info: ImageInfo, sink: ChunkSink, limit_bytes: int, on_progress: Callable[[int], None]
) -> RawCopy:
    """Put the disk into `sink`, and release `source` on the way.

    Raises ImageError `TruncatedImage`, `CorruptImage`, `AmbiguousFormat`, `VirtualSizeTooLarge`, and `UnknownLength`
    where a disk without a known length turns out to be of another size than its partition table says, so that the size
    of the chunks was chosen wrongly; besides what `source` and `sink` raise.
    """
    offset, held = 0, b""
    while True:
        # One piece stays behind: a VHD's last sector may tell that the disk ends up to two megabytes before it.
        data = source.read_at(offset, PIECE_BYTES)
        offset += len(data)
        source.release(offset)
        if offset > limit_bytes:
            raise ImageError(
                f"the disk has more than the {limit_bytes} bytes that are allowed (importer.max_virtual_size_bytes)",
                reason="VirtualSizeTooLarge",
            )
        if len(data) < PIECE_BYTES:
            break
        _put(sink, offset - len(data) - len(held), held)
        held = data
        on_progress(min(offset - len(data), sink.size_bytes))
    total = source.total_bytes
    if total is not None and offset < total:
        raise ImageError(f"the image ends after {offset} of {total} bytes; fetch it again", reason="TruncatedImage")
    ending = held + data
    return _finish(ending, offset - len(ending), info, sink)


def _finish(ending: bytes, start: int, info: ImageInfo, sink: ChunkSink) -> RawCopy:
    """Store the end of the file, which begins at `start`; its last sector may make it a VHD."""
    end = start + len(ending)
    refuse_cut(info.declared, end)
    image_format, size = info.format, -(-end // SECTOR_BYTES) * SECTOR_BYTES
    if headers.is_fixed_vhd(ending[-SECTOR_BYTES:]):
        if info.format is ImageFormat.ISO:
            raise ImageError("the image can be read as iso and vpc; it was made to deceive", reason="AmbiguousFormat")
        image_format, size = ImageFormat.VPC, headers.fixed_vhd_size(ending[-SECTOR_BYTES:], end)
        if size < start:
            raise ImageError(
                f"the VHD says that its disk has {size} bytes, but it holds {end - SECTOR_BYTES}; export it again",
                reason="CorruptImage",
            )
        ending = ending[: size - start]
    ending = ending.ljust(size - start, b"\0")
    if chunk_size_bytes(size) != sink.chunk_size_bytes:
        raise ImageError(
            f"the disk has {size} bytes, and its partition table says {info.declared.likely_bytes}; a compressed raw "
            "disk that does not tell its size cannot be imported in one pass. Unpack it first, or make it a qcow2 "
            "(qemu-img convert -c -O qcow2)",
            reason="UnknownLength",
        )
    sink.end_at(size)
    for at in range(0, len(ending), PIECE_BYTES):
        _put(sink, start + at, ending[at : at + PIECE_BYTES])
    return RawCopy(image_format, size)


def _put(sink: ChunkSink, offset: int, data: bytes) -> None:
    index = offset // sink.chunk_size_bytes
    if index >= MAX_CHUNKS:
        return  # the wrong size of chunks, which is told at the end
    if len(data) == sink.chunk_size_bytes:
        sink.put_chunk(index, partial(bytes, data))
    elif not is_zero(data):
        sink.write(offset, memoryview(data))
