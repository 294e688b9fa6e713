"""A source image into chunks of a raw disk, without a scratch copy of either.

ByteSource ── SourceExport ◀─socket─ qemu-img convert ─socket─▶ ChunkSink ── ChunkStore
ByteSource ──── raw, iso, qcow2, streamOptimized: no qemu-img ─▶ ChunkSink ── ChunkStore
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from converter.headers import refuse_bomb, refuse_empty, vmdk
from converter.inspect import ImageFormat, ImageInfo
from converter.mapped import MappedDisk, Piece, TableCheck, groups
from converter.nbd.parts import ChunkParts
from converter.nbd.server import NbdServer
from converter.nbd.sink import ChunkSink, ChunkStore
from converter.nbd.source import FREE_BYTES, SourceExport
from converter.qcow2 import Qcow2Disk
from converter.qemu_img import QemuImg, refuse_idle
from converter.raw import copy_raw, sink_size_bytes
from converter.source import ByteSource, confirm
from converter.vmdk import VmdkDisk
from dvcr.artifact.image import MAX_VIRTUAL_SIZE_BYTES, Chunk
from dvcr.errors import ImageError

__all__ = ["ChunkStore", "ConvertedDisk", "convert"]

IDLE_TIMEOUT_S = 60.0
# Of the source: each part costs a start of qemu-img, which is a tenth of a second.
PART_BYTES = 512 * 2**20
MAX_PARTS = 16
# How often qemu-img may read the source: what is right is read once, and tables a second time.
MAX_READS = 4
# A compressed cluster may take a few bytes of a sector, of which qemu-img reads at least one.
MAX_READS_QCOW2 = 64
MAX_UNPACKING_RATIO = 10_000
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
    max_unpacking_ratio: int = MAX_UNPACKING_RATIO,
    qemu_img: QemuImg | None = None,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
) -> ConvertedDisk:
    """Convert `source`, which `inspect` found to be `info`, to raw, and put its chunks into `store`.

    The result is byte for byte what `qemu-img convert -O raw` gives. `on_progress` is called in this thread several
    times a second with the bytes of the disk that are done, never fewer than before; what it raises stops the
    conversion. Neither a process nor a socket nor a file is left behind, whatever happens. The checksums of the
    source are not checked: call `source.finish` after this.

    `max_virtual_size_bytes` is for disks whose size only their end tells; the size of others is in `info`.
    `max_unpacking_ratio` is how many bytes of the disk each byte of the source may give, beyond 256 MiB.
    Raises SourceError, ImageError (see `copy_raw`; `TruncatedImage`, `CorruptImage`, `DecompressionBomb`;
    `SnapshotsRefused` where a qcow2 has nothing but snapshots; `ConversionFailed` also where qemu-img asks for nothing
    for `idle_timeout_s`), and whatever the store raises.
    """
    image_format, size = info.format, info.virtual_size_bytes
    if image_format in (ImageFormat.RAW, ImageFormat.ISO):
        with ChunkSink(sink_size_bytes(source, info, max_virtual_size_bytes), store) as sink:
            copied = copy_raw(source, info, sink, max_virtual_size_bytes, on_progress)
            image_format, size = copied.format, copied.virtual_size_bytes
            chunks = sink.finish()
    else:
        with ChunkSink(size, store) as sink:
            disk = _mapped(source, info, sink.chunk_size_bytes, max_unpacking_ratio)
            if disk is not None:
                _chunk_by_chunk(disk, source, sink, on_progress)
            else:
                watch = _Watch(on_progress, idle_timeout_s, max_unpacking_ratio)
                _through_qemu_img(source, info, sink, qemu_img or QemuImg(), watch)
            chunks = sink.finish()
    if info.snapshots and not chunks:
        refuse_empty(info.snapshots)
    on_progress(size)
    return ConvertedDisk(image_format, size, sink.chunk_size_bytes, chunks)


def _mapped(source: ByteSource, info: ImageInfo, chunk_bytes: int, max_unpacking_ratio: int) -> MappedDisk | None:
    """The disk, where it is one that we read ourselves."""
    if info.format is ImageFormat.QCOW2:
        disk = Qcow2Disk(source, info.virtual_size_bytes, chunk_bytes, max_unpacking_ratio)
        return None if disk.unusual else disk
    if info.format is ImageFormat.VMDK:
        header = vmdk(source)
        if header.compressed:
            return VmdkDisk(source, header, chunk_bytes, max_unpacking_ratio)
        confirm(source, header.ahead)
    return None


def _chunk_by_chunk(disk: MappedDisk, source: ByteSource, sink: ChunkSink, on_progress: Callable[[int], None]) -> None:
    """In the order of the file, from a source that then needs to keep nothing; else in the order of the disk."""
    steps = disk.streaming_order()
    gathering = _Gathering(disk, sink)
    if steps is None:
        for index in range(disk.chunk_count):
            pieces = disk.pieces(index)
            read = 0
            for group in groups(pieces):
                read += len(group)
                gathering.read(index, pieces, read - len(group), read)
            on_progress(index * sink.chunk_size_bytes)
        return
    for number, step in enumerate(steps):
        source.release(step.release_offset)
        if isinstance(step, TableCheck):
            disk.check_table(step.number)
            continue
        gathering.read(step.index, disk.pieces(step.index), step.first, step.end)
        on_progress(number * sink.size_bytes // len(steps))


@dataclass(frozen=True, slots=True)
class _Watch:
    """What is looked at while qemu-img runs."""

    on_progress: Callable[[int], None]
    idle_timeout_s: float
    max_unpacking_ratio: int


class _Gathering:
    """Chunks of which not all pieces were read yet."""

    def __init__(self, disk: MappedDisk, sink: ChunkSink) -> None:
        self._disk = disk
        self._sink = sink
        self._data: dict[int, list[memoryview]] = {}
        self._parts: dict[int, ChunkParts] = {}

    def read(self, index: int, pieces: Sequence[Piece], first: int, end: int) -> None:
        """Read some more of a chunk's pieces, up to `end`; with the last ones it goes to the sink."""
        self._sink.await_room()
        data = self._disk.read(pieces[first:end])
        if self._sink.in_parts:
            parts = self._parts.setdefault(index, ChunkParts(self._disk.chunk_bytes(index)))
            self._disk.fill(parts, index, pieces[first:end], data)
            if end == len(pieces):
                self._sink.put_chunk(index, partial(self._parts.pop, index))
            return
        data = [*self._data.pop(index, ()), *data]
        if end == len(pieces):
            self._sink.put_chunk(index, partial(self._disk.assemble, index, pieces, data))
        else:
            self._data[index] = data


def _through_qemu_img(source: ByteSource, info: ImageInfo, sink: ChunkSink, qemu_img: QemuImg, watch: _Watch) -> None:
    export = SourceExport(
        source,
        exact_length=info.exact_length,
        max_reads=MAX_READS_QCOW2 if info.format is ImageFormat.QCOW2 else MAX_READS,
    )
    with (
        NbdServer(None, {SOURCE: export}) as source_server,
        NbdServer(None, {TARGET: sink}) as target_server,
    ):

        def tick() -> None:
            _raise_cause(source_server, sink, target_server)
            watch.on_progress(sink.written_bytes)
            if sink.received_bytes > FREE_BYTES + watch.max_unpacking_ratio * export.furthest_bytes:
                refuse_bomb(watch.max_unpacking_ratio)
            refuse_idle(min(source_server.idle_s(), target_server.idle_s()), watch.idle_timeout_s)

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
