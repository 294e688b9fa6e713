"""A disk into an image of the registry; what the registry has already is neither read nor sent.

    the disk ──map──▶ which chunks it has of its own
        ├─ untouched chunks ──▶ mounted from the artifact that the disk started from, unread
        └─ touched chunks ──▶ ChunkSink ──▶ pushed where the registry does not know them

Disks at rest are read by qemu-img, those of running machines by `controller.launcher.snapshot`.
The chunks lie on the grid of the artifact, so that a touched chunk whose bytes are the old ones has the old digest.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

import structlog

from controller.launcher import qcow2
from controller.launcher.disks import parse_backing
from controller.launcher.spec import CaptureSpec, DiskSpec, ImageReference
from converter.nbd.export import Extent, ReadableExport
from converter.nbd.image import ImageExport
from converter.nbd.server import NbdServer
from converter.nbd.sink import ChunkSink
from converter.qemu_img import QemuImg, refuse_idle
from dvcr.artifact.cache import ChunkCache
from dvcr.artifact.image import Chunk, DiskImage, ImageSource, chunk_size_bytes
from dvcr.artifact.reader import ImageReader
from dvcr.artifact.store import fetch, publish
from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.descriptor import Descriptor
from dvcr.digest import Digest
from dvcr.errors import ImageError, ResourceError

DISK, ORIGIN, TARGET = "disk", "origin", "target"
PARALLEL_MOUNTS = 8
IDLE_TIMEOUT_S = 60.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Captured:
    """What became of a capture."""

    image: DiskImage
    digest: Digest
    sent_chunks: int
    """Chunks that the registry did not have."""
    unread_chunks: int
    """Chunks of the artifact that were taken over without being read."""


class CapturedDisk(Protocol):
    """A disk whose content does not change while it is captured."""

    @property
    def size_bytes(self) -> int:
        """Its virtual size."""
        ...

    @property
    def image(self) -> ImageReference | None:
        """The artifact that shows where the disk has nothing of its own."""
        ...

    def own(self) -> Iterator[tuple[int, int]]:
        """Offset and length of each run that the disk has of its own, zeroes too."""
        ...

    def read(self, below: "Below | None", sink: ChunkSink, on_progress: Callable[[int], None]) -> None:
        """Put into the sink what cannot be taken over unread; `below` is the artifact, if there is one."""
        ...

    def check(self) -> None:
        """Raise ResourceError if the content did change after all."""
        ...


def capture(
    spec: CaptureSpec,
    root: Path,
    registry: RegistryClient,
    cache: ChunkCache | None,
    on_progress: Callable[[int], None],
) -> Captured:
    """Make the image of a disk at rest, as `make_image`; `root` is the folder that stands for the pod's `/`.

    Raises also ResourceError `DiskInUse` (retryable) where the disk is or was written to meanwhile.
    """
    return make_image(spec, DiskAtRest(spec.disk, root), registry, cache, on_progress)


def make_image(
    spec: CaptureSpec,
    disk: CapturedDisk,
    registry: RegistryClient,
    cache: ChunkCache | None,
    on_progress: Callable[[int], None],
) -> Captured:
    """Make the image. Idempotent; nothing is visible before all of it is there.

    `on_progress` gets bytes of the disk that are done, and what it raises stops the capture. Raises ImageError and
    RegistryError.
    """
    origin = _Origin.fetch(registry, disk.image) if disk.image else None
    size = max(disk.size_bytes, origin.image.virtual_size_bytes if origin else 0)
    untouched = _untouched(disk, size, origin)
    repository = registry.repository(spec.repository)
    store = _Store(repository)
    with ChunkSink(size, store) as sink, ExitStack() as stack:
        below = None
        if origin is not None:
            reader = stack.enter_context(ImageReader(origin.repository, origin.image, cache=cache))
            below = Below(reader, untouched)
        disk.read(below, sink, on_progress)
        chunks = sink.finish()
    disk.check()
    if origin is not None:
        _take_over(repository, origin.repository, [chunk.descriptor for chunk in untouched.values()])
    image = DiskImage(
        virtual_size_bytes=size,
        chunk_size_bytes=sink.chunk_size_bytes,
        chunks=tuple(sorted((*chunks, *untouched.values()), key=lambda chunk: chunk.index)),
        cdrom=False,
        source=ImageSource("qcow2", size, {}, spec.origin),
        created=datetime.now(UTC),
    )
    digest = publish(repository, image, spec.tags)
    log.info("disk captured", repository=repository.name, sent=store.sent, unread=len(untouched))
    return Captured(image, digest, store.sent, len(untouched))


@dataclass(frozen=True)
class _Origin:
    """The artifact below a disk."""

    repository: Repository
    image: DiskImage

    @classmethod
    def fetch(cls, registry: RegistryClient, reference: ImageReference) -> "_Origin":
        repository = registry.repository(reference.repository)
        return cls(repository, fetch(repository, Digest.parse(reference.digest)).image)


class _Store:
    """The sink's chunks into a repository, each asked for first."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._sent: set[Digest] = set()

    @property
    def sent(self) -> int:
        return len(self._sent)

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        if self._repository.push_blob(descriptor.digest, data):
            self._sent.add(descriptor.digest)


class Below:
    """An artifact as it shows through a disk: chunks that need not be read are holes."""

    def __init__(self, reader: ImageReader, untouched: dict[int, Chunk]) -> None:
        self._export = ImageExport(reader)
        self._chunk_size = reader.image.chunk_size_bytes
        self._untouched = untouched

    @property
    def size_bytes(self) -> int:
        return self._export.size_bytes

    def read(self, offset_bytes: int, length_bytes: int) -> bytes | memoryview:
        return self._export.read(offset_bytes, length_bytes)

    def extents(self, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        for extent in self._export.extents(offset_bytes, length_bytes):
            end = offset_bytes + extent.length_bytes
            while offset_bytes < end:
                index = offset_bytes // self._chunk_size
                stop = min(end, (index + 1) * self._chunk_size)
                yield Extent(stop - offset_bytes, extent.zero or index in self._untouched)
                offset_bytes = stop


def _untouched(disk: CapturedDisk, size_bytes: int, origin: _Origin | None) -> dict[int, Chunk]:
    """The artifact's chunks that the new image has too, by index."""
    if origin is None or origin.image.chunk_size_bytes != chunk_size_bytes(size_bytes):
        return {}
    step = origin.image.chunk_size_bytes
    touched: set[int] = set()
    for offset, length in disk.own():
        touched.update(range(offset // step, -(-(offset + length) // step)))
    whole = [c for c in origin.image.chunks if origin.image.chunk_length(c.index) == _length(c.index, step, size_bytes)]
    return {chunk.index: chunk for chunk in whole if chunk.index not in touched}


def _length(index: int, chunk_size: int, size_bytes: int) -> int:
    return min(chunk_size, size_bytes - index * chunk_size)


class DiskAtRest:
    """A disk that nobody writes to, or that no machine has used yet: then it is what it starts from."""

    def __init__(self, disk: DiskSpec, root: Path) -> None:
        path = root / disk.path.lstrip("/")
        self._path = path if qcow2.is_made(path, device=disk.device) else None
        self.size_bytes = disk.size_bytes
        self.image = disk.image
        if self._path is not None:
            header = qcow2.read_header(self._path)
            self.size_bytes = max(disk.size_bytes, header.virtual_size_bytes)
            self.image = parse_backing(self._path, header.backing)
        self._before = _state(self._path)

    def own(self) -> Iterator[tuple[int, int]]:
        return qcow2.allocated(self._path) if self._path else iter(())

    def read(self, below: Below | None, sink: ChunkSink, on_progress: Callable[[int], None]) -> None:
        """Have qemu-img read what is to be read; the rest looks like zero to it, and stays unread."""
        if self._path is None and (below is None or all(e.zero for e in below.extents(0, below.size_bytes))):
            return
        _convert(self._path, below, sink, on_progress)

    def check(self) -> None:
        if _state(self._path) != self._before:
            raise ResourceError("the disk was written to while it was read", reason="DiskInUse", retryable=True)


def _state(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when somebody writes to the disk."""
    if path is None:
        return None
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


class _OverlayFile:
    """A qcow2 file whose header names no image below it: what lies there is told to qemu-img otherwise."""

    def __init__(self, file: BinaryIO) -> None:
        self._fd = file.fileno()
        self.size_bytes = os.lseek(self._fd, 0, os.SEEK_END)

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        data = bytearray(os.pread(self._fd, length_bytes, offset_bytes))
        for at in range(
            max(qcow2.BACKING_FIELDS.start, offset_bytes), min(qcow2.BACKING_FIELDS.stop, offset_bytes + length_bytes)
        ):
            data[at - offset_bytes] = 0
        # A file that was cut meanwhile is noticed at the end.
        return bytes(data.ljust(length_bytes, b"\0"))

    def extents(self, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        yield Extent(length_bytes, zero=False)


def _convert(path: Path | None, below: Below | None, sink: ChunkSink, on_progress: Callable[[int], None]) -> None:
    with ExitStack() as stack:
        exports: dict[str, ReadableExport] = {} if below is None else {ORIGIN: below}
        if path is not None:
            exports[DISK] = _OverlayFile(stack.enter_context(path.open("rb")))
        source_server = stack.enter_context(NbdServer(None, exports))
        target_server = stack.enter_context(NbdServer(None, {TARGET: sink}))
        sockets: list[int] = []

        def node(server: NbdServer, export: str) -> dict[str, object]:
            sockets.append(stack.enter_context(server.connect()).fileno())
            return {"driver": "nbd", "server": {"type": "fd", "str": str(sockets[-1])}, "export": export}

        def tick() -> None:
            cause: BaseException | None = source_server.error or sink.error or target_server.error
            if cause is not None:
                raise cause
            on_progress(sink.written_bytes)
            refuse_idle(min(source_server.idle_s(), target_server.idle_s()), IDLE_TIMEOUT_S)

        source: dict[str, object] | None = None
        if below is not None:
            source = {"driver": "raw", "file": node(source_server, ORIGIN)}
        if path is not None:
            source = {"driver": "qcow2", "file": node(source_server, DISK), "backing": source}
        target = {"driver": "raw", "file": node(target_server, TARGET)}
        arguments = [
            "-n",
            "--target-is-zero",
            "-m",
            "8",
            "-S",
            "1M",
            *(f"json:{json.dumps(n)}" for n in (source, target)),
        ]
        try:
            QemuImg().convert(arguments, sockets=sockets, virtual_size_bytes=sink.size_bytes, on_tick=tick)
        except ImageError:
            tick()  # qemu-img only saw an I/O error: its cause is known on our side of the sockets
            raise


def _take_over(repository: Repository, origin: Repository, blobs: list[Descriptor]) -> None:
    """Have the repository hold these blobs of `origin`: mounted, or copied where the registry does not mount."""

    def take_over(blob: Descriptor) -> None:
        upload = repository.mount_or_begin(blob.digest, origin.name)
        if upload is not None:
            upload.fill(origin.open_blob(blob.digest, blob.size_bytes), blob.digest)

    with ThreadPoolExecutor(PARALLEL_MOUNTS, "mount") as pool:
        for _ in pool.map(take_over, {blob.digest: blob for blob in blobs}.values()):
            pass  # raises what failed
