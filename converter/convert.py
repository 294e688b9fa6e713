"""A source image into chunks of a raw disk, without a scratch copy of either.

ByteSource ── SourceExport ◀─socket─ qemu-img convert ─socket─▶ ChunkSink ── ChunkStore
ByteSource ─────────── raw, iso, qcow2: no qemu-img ──────────▶ ChunkSink ── ChunkStore
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from converter.inspect import ImageFormat, ImageInfo
from converter.nbd.server import NbdServer
from converter.nbd.sink import ChunkSink, ChunkStore
from converter.nbd.source import SourceExport
from converter.qcow2 import Qcow2Disk, TableCheck
from converter.qemu_img import QemuImg
from converter.raw import copy_raw, sink_size_bytes
from converter.source import ByteSource
from dvcr.artifact.image import MAX_VIRTUAL_SIZE_BYTES, Chunk
from dvcr.errors import ImageError

__all__ = ["ChunkStore", "ConvertedDisk", "convert"]

IDLE_TIMEOUT_S = 60.0
# Of the source: each part costs a start of qemu-img, which is a tenth of a second.
PART_BYTES = 512 * 2**20
MAX_PARTS = 16
SOURCE, TARGET = "source", "target"


@dataclass(frozen=True, slots=True)
class ConvertedDisk:
    """A disk whose chunks are stored; chunks that are all zero are left out."""

    format: ImageFormat
    """As `inspect` found it, or `vpc` where the end of a raw disk told that it is a VHD of fixed size."""
    virtual_size_bytes: int
    chunk_size_bytes: int
    chunks: tuple[Chunk, ...]


def convert(
    source: ByteSource,
    info: ImageInfo,
    store: ChunkStore,
    *,
    on_progress: Callable[[int], None],
    max_virtual_size_bytes: int = MAX_VIRTUAL_SIZE_BYTES,
    qemu_img: QemuImg | None = None,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
) -> ConvertedDisk:
    """Convert `source`, which `inspect` found to be `info`, to raw, and put its chunks into `store`.

    The result is byte for byte what `qemu-img convert -O raw` gives. `on_progress` is called in this thread several
    times a second with the bytes of the disk that are done, never fewer than before; what it raises stops the
    conversion. Neither a process nor a socket nor a file is left behind, whatever happens. The checksums of the
    source are not checked: call `source.finish` after this.

    `max_virtual_size_bytes` is for disks whose size only their end tells; the size of others is in `info`.
    Raises SourceError, ImageError (see `copy_raw`; `TruncatedImage`, or `ConversionFailed` also where qemu-img asks for
    nothing for `idle_timeout_s`), and whatever the store raises.
    """
    image_format, size = info.format, info.virtual_size_bytes
    if image_format in (ImageFormat.RAW, ImageFormat.ISO):
        with ChunkSink(sink_size_bytes(source, info, max_virtual_size_bytes), store) as sink:
            copied = copy_raw(source, info, sink, max_virtual_size_bytes, on_progress)
            image_format, size = copied.format, copied.virtual_size_bytes
            chunks = sink.finish()
    else:
        with ChunkSink(size, store) as sink:
            if (
                image_format is ImageFormat.QCOW2
                and not (disk := Qcow2Disk(source, size, sink.chunk_size_bytes)).unusual
            ):
                _chunk_by_chunk(disk, source, sink, on_progress)
            else:
                _through_qemu_img(source, info, sink, qemu_img or QemuImg(), on_progress, idle_timeout_s)
            chunks = sink.finish()
    on_progress(size)
    return ConvertedDisk(image_format, size, sink.chunk_size_bytes, chunks)


def _chunk_by_chunk(disk: Qcow2Disk, source: ByteSource, sink: ChunkSink, on_progress: Callable[[int], None]) -> None:
    """In the order of the file, from a source that then needs to keep nothing; else in the order of the disk."""
    steps = disk.streaming_order()
    if steps is None:
        for index in range(disk.chunk_count):
            pieces = disk.pieces(index)
            if pieces:
                sink.put_chunk(index, partial(disk.assemble, index, pieces, disk.read(pieces)))
            on_progress(index * sink.chunk_size_bytes)
        return
    held: dict[int, list[memoryview]] = {}
    for number, step in enumerate(steps):
        source.release(step.release_offset)
        if isinstance(step, TableCheck):
            disk.check_table(step.number)
            continue
        pieces = disk.pieces(step.index)
        data = held.setdefault(step.index, [])
        data += disk.read(pieces[step.first : step.end])
        if step.last:
            sink.put_chunk(step.index, partial(disk.assemble, step.index, pieces, held.pop(step.index)))
        on_progress(number * sink.size_bytes // len(steps))


def _through_qemu_img(
    source: ByteSource,
    info: ImageInfo,
    sink: ChunkSink,
    qemu_img: QemuImg,
    on_progress: Callable[[int], None],
    idle_timeout_s: float,
) -> None:
    export = SourceExport(source, exact_length=info.exact_length, read_ahead=info.reads_ahead)
    with (
        NbdServer(None, {SOURCE: export}) as source_server,
        NbdServer(None, {TARGET: sink}) as target_server,
    ):

        def tick() -> None:
            _raise_cause(source_server, sink, target_server)
            on_progress(sink.written_bytes)
            idle_s = min(source_server.idle_s(), target_server.idle_s())
            if idle_s > idle_timeout_s:
                raise ImageError(
                    f"qemu-img has asked for nothing for {idle_s:.0f} s and was stopped", reason="ConversionFailed"
                )

        for part in _parts(info, source.total_bytes or info.virtual_size_bytes, sink.chunk_size_bytes):
            with source_server.connect() as source_socket, target_server.connect() as target_socket:
                arguments = [
                    # What the target does not receive is zero already; only longer runs of zeroes are worth a gap.
                    *("-n", "--target-is-zero", "-m", "8", "-S", "1M"),
                    *("--image-opts", "--target-image-opts"),
                    f"driver=raw,{part},file.driver={info.format},{_nbd('file.file', source_socket.fileno(), SOURCE)}",
                    f"driver=raw,{part},{_nbd('file', target_socket.fileno(), TARGET)}",
                ]
                sockets = (source_socket.fileno(), target_socket.fileno())
                try:
                    qemu_img.convert(
                        arguments, sockets=sockets, virtual_size_bytes=info.virtual_size_bytes, on_tick=tick
                    )
                except ImageError as exc:
                    # qemu-img only saw an I/O error; what caused it is known on our side of the sockets.
                    _raise_cause(source_server, sink, target_server)
                    if export.read_past_end:
                        raise ImageError(f"the image is cut off: {exc.message}", reason="TruncatedImage") from exc
                    raise
                _raise_cause(source_server, sink, target_server)


def _parts(info: ImageInfo, source_bytes: int, chunk_size_bytes: int) -> Iterator[str]:
    """The ranges of the disk that qemu-img converts one after the other, as options of its raw driver.

    Before it copies anything, qemu-img looks up where all the data lie. The tables of a qcow2 are spread over the file,
    so that it would wait for the end of the download first; a part of the disk needs only its own tables.
    """
    size = info.virtual_size_bytes
    count = source_bytes // PART_BYTES if info.format is ImageFormat.QCOW2 else 1
    step = -(-size // max(1, min(count, MAX_PARTS)) // chunk_size_bytes) * chunk_size_bytes
    for start in range(0, size, step):
        # The last one is open, so that qemu-img notices where the disk is longer than it should be.
        yield f"offset={start}" + (f",size={step}" if start + step < size else "")


def _raise_cause(source_server: NbdServer, sink: ChunkSink, target_server: NbdServer) -> None:
    cause: BaseException | None = source_server.error or sink.error or target_server.error
    if cause is not None:
        raise cause


def _nbd(node: str, fd: int, export: str) -> str:
    options = {"driver": "nbd", "server.type": "fd", "server.str": fd, "export": export}
    return ",".join(f"{node}.{name}={value}" for name, value in options.items())
