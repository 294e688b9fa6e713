"""A raw disk, an ISO or a VHD of fixed size, copied in one pass while it arrives."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from converter import headers
from converter.inspect import ImageFormat, ImageInfo
from converter.nbd.sink import ChunkSink
from converter.partitions import refuse_cut
from converter.source import ByteSource
from dvcr.artifact.image import MAX_CHUNKS, chunk_size_bytes
from dvcr.errors import ImageError

SECTOR_BYTES = 512
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
        footer = source.read_at(size - SECTOR_BYTES, SECTOR_BYTES)
        if headers.is_fixed_vhd(footer):
            return headers.fixed_vhd_size(footer, size)
    return size


def copy_raw(
    source: ByteSource, info: ImageInfo, sink: ChunkSink, limit_bytes: int, on_progress: Callable[[int], None]
) -> RawCopy:
    """Put the disk into `sink`, and release `source` on the way.

    Raises ImageError `TruncatedImage`, `CorruptImage`, `AmbiguousFormat`, `VirtualSizeTooLarge`, and `UnknownLength`
    where a disk without a known length turns out to be of another size than its partition table says, so that the size
    of the chunks was chosen wrongly; besides what `source` and `sink` raise.
    """
    step = sink.chunk_size_bytes
    index, held = 0, b""
    while True:
        # One chunk stays behind: a VHD's last sector may tell that the disk ends up to two megabytes before it.
        offset = index * step + len(held)
        data = source.read_at(offset, step)
        source.release(offset + len(data))
        if offset + len(data) > limit_bytes:
            raise ImageError(
                f"the disk has more than the {limit_bytes} bytes that are allowed (importer.max_virtual_size_bytes)",
                reason="VirtualSizeTooLarge",
            )
        if len(data) < step:
            break
        if held:
            _put(sink, index, held)
            index += 1
        held = data
        on_progress(min(index * step, sink.size_bytes))
    ending = held + data
    end, total = index * step + len(ending), source.total_bytes
    if total is not None and end < total:
        raise ImageError(f"the image ends after {end} of {total} bytes; fetch it again", reason="TruncatedImage")
    return _finish(ending, index * step, info, sink)


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
    step = sink.chunk_size_bytes
    if chunk_size_bytes(size) != step:
        raise ImageError(
            f"the disk has {size} bytes, and its partition table says {info.declared.likely_bytes}; a compressed raw "
            "disk that does not tell its size cannot be imported in one pass. Unpack it first, or make it a qcow2 "
            "(qemu-img convert -c -O qcow2)",
            reason="UnknownLength",
        )
    for at in range(0, len(ending), step):
        _put(sink, (start + at) // step, ending[at : at + step])
    return RawCopy(image_format, size)


def _put(sink: ChunkSink, index: int, data: bytes) -> None:
    if index >= MAX_CHUNKS:
        return  # the wrong size of chunks, which is told at the end
    sink.put_chunk(index, partial(bytes, data))
