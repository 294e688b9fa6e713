"""From the specification's block devices to drives that QEMU can open.

A disk that starts from an image is a qcow2 whose backing is the artifact, shown to QEMU over NBD. Its header names the
artifact until the background copy is complete, so the disk itself says what it still lacks: a launcher that starts
again goes on where the last one ended, whatever the specification says by then.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.launcher import qcow2
from controller.launcher.argv import Drive, node_name
from controller.launcher.spec import DiskSpec, ImageReference
from converter.nbd.export import Extent, ReadableExport
from dvcr.errors import DvcrError, ImageError

BACKING_SCHEME = "dvcr:"

ImageOpener = Callable[[ImageReference], ReadableExport]
"""Opens the artifact for reading; RegistryError if it cannot be had."""


class WatchedExport:
    """An export that remembers the read that failed last, so that it can be tried again without the guest."""

    def __init__(self, export: ReadableExport) -> None:
        self._export = export
        self._failed: tuple[int, int] | None = None
        self.error: DvcrError | None = None
        """Why the last read failed; None when it did not."""
        self.on_read: Callable[[int], None] = lambda _: None
        """Is told where each read begins, from the thread that reads."""

    @property
    def size_bytes(self) -> int:
        return self._export.size_bytes

    def read(self, offset_bytes: int, length_bytes: int) -> bytes | bytearray | memoryview:
        self.on_read(offset_bytes)
        try:
            data = self._export.read(offset_bytes, length_bytes)
        except DvcrError as exc:
            self._failed, self.error = (offset_bytes, length_bytes), exc
            raise
        if self.error is not None and self._failed == (offset_bytes, length_bytes):
            self._failed = self.error = None
        return data

    def extents(self, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        return self._export.extents(offset_bytes, length_bytes)

    def recovered(self) -> bool:
        """Read again what could not be read; True if all is well. Blocks."""
        if self._failed is not None:
            try:
                self.read(*self._failed)
            except DvcrError:
                return False
        return True


@dataclass(frozen=True, slots=True)
class PreparedDisk:
    """A block device, made and ready to be opened."""

    name: str
    drive: Drive
    export: WatchedExport | None
    size_bytes: int
    """Virtual size as it is."""
    grow_to_bytes: int | None = None
    """Size to give the disk before the guest starts; None: it has it."""

    @property
    def streams(self) -> bool:
        """Whether part of the disk's content is still only in the registry."""
        return self.drive.path is not None and self.export is not None


def prepare(disks: Sequence[DiskSpec], root: Path, open_image: ImageOpener) -> list[PreparedDisk]:
    """Make the disks that do not exist yet and open the images; idempotent. Blocks.

    `root` is the folder that stands for the pod's `/`. Raises ImageError for a disk that is smaller than its image or
    broken, StorageError where it cannot be made, and what `open_image` raises.
    """
    opened: dict[ImageReference, WatchedExport] = {}

    def export_of(reference: ImageReference) -> WatchedExport:
        if reference not in opened:
            opened[reference] = WatchedExport(open_image(reference))
        return opened[reference]

    return [_prepare(disk, root, export_of) for disk in disks]


def exports(disks: Sequence[PreparedDisk]) -> dict[str, ReadableExport]:
    """What the NBD server shows, by name."""
    return {disk.drive.export: disk.export for disk in disks if disk.drive.export and disk.export}


def _prepare(disk: DiskSpec, root: Path, export_of: Callable[[ImageReference], WatchedExport]) -> PreparedDisk:
    node = node_name(disk.name)
    if disk.kind == "image":
        if disk.image is None:
            raise ImageError(f"block device {disk.name} is an image, but no image is given")
        image = export_of(disk.image)
        return PreparedDisk(disk.name, Drive(node, None, disk.image.digest, disk.cdrom), image, image.size_bytes)
    path = root / disk.path.lstrip("/")
    if not qcow2.is_made(path, device=disk.device):
        _create(disk, path, export_of)
    header = qcow2.read_header(path)
    reference = parse_backing(path, header.backing)
    grow_to = disk.size_bytes if disk.size_bytes > header.virtual_size_bytes else None
    drive = Drive(node, path, reference.digest if reference else None, disk.cdrom, disk.port)
    return PreparedDisk(
        disk.name, drive, export_of(reference) if reference else None, header.virtual_size_bytes, grow_to
    )


def _create(disk: DiskSpec, path: Path, export_of: Callable[[ImageReference], WatchedExport]) -> None:
    if disk.image is None:
        qcow2.create(path, disk.size_bytes, None, device=disk.device)
        return
    image_size = export_of(disk.image).size_bytes
    if 0 < disk.size_bytes < image_size:
        raise ImageError(
            f"disk {disk.name} of {disk.size_bytes} bytes is smaller than its image of {image_size} bytes; "
            f"give it at least the image's size",
            reason="DiskTooSmall",
        )
    qcow2.create(path, disk.size_bytes or image_size, _backing(disk.image), device=disk.device)


def _backing(image: ImageReference) -> str:
    return f"{BACKING_SCHEME}{image.repository}@{image.digest}"


def parse_backing(path: Path, backing: str | None) -> ImageReference | None:
    """The artifact that a disk's header names; ImageError `BackingFileRefused` for anything else."""
    if backing is None:
        return None
    repository, separator, digest = backing.removeprefix(BACKING_SCHEME).partition("@")
    if not backing.startswith(BACKING_SCHEME) or not separator:
        raise ImageError(f"the disk {path} has the foreign backing file {backing!r}", reason="BackingFileRefused")
    return ImageReference(repository=repository, digest=digest)
