"""Images as containerDisks of KubeVirt: container images of one layer with the file `disk/disk.<format>`.

FROM scratch, owned by user and group 107 (qemu), readable only. The same disk gives the same digests: no time stamps
but that of the image, names and order fixed. The layer is not compressed; the disk in it is (qcow2, by default).
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.progress import Progress

from converter.export import READ_BYTES, Compression, ExportFormat, export_image
from converter.nbd.image import ImageExport
from dvcr.cli.bars import progress_bars
from dvcr.client.repository import Repository
from dvcr.config import Settings
from dvcr.descriptor import IMAGE_CONFIG, IMAGE_MANIFEST, Descriptor
from dvcr.digest import Digest
from dvcr.errors import ConfigError
from importer.exports.file import opened, parse_compression, parse_format, scratch
from importer.registries import Registries

LAYER = "application/vnd.oci.image.layer.v1.tar"
OWNER = 107
_FORMATS = {ExportFormat.QCOW2: "disk.qcow2", ExportFormat.RAW: "disk.img"}


def export_to_container_disk(
    settings: Settings, name: str, registries: Registries, destination: str, format_: str, compress: str, arch: str
) -> str:
    """Push the image `name` as a containerDisk to `destination`; what it can be pulled by, with its digest.

    The disk goes through a file in `importer.scratch_dir`: a layer's length stands before it. A layer that the registry
    has is not sent again. Raises ConfigError, StorageError, ImageError and RegistryError.
    """
    export_format, compression = parse_format(format_), parse_compression(compress)
    if export_format not in _FORMATS:
        raise ConfigError(f"a containerdisk holds qcow2 or raw, not {export_format}")
    if export_format is ExportFormat.QCOW2:
        compression = compression or Compression.ZLIB
    place = registries.open(destination)
    if isinstance(place.reference.reference, Digest):
        raise ConfigError(f"{destination!r}: a containerdisk is pushed under a tag, its digest follows from the bytes")
    with opened(settings, name) as reader, scratch(settings) as folder, progress_bars() as bars:
        disk = ImageExport(reader)
        task = bars.add_task("export", total=disk.size_bytes)
        file = folder / _FORMATS[export_format]
        export_image(
            disk,
            file,
            export_format,
            compression=compression,
            on_progress=lambda done: bars.update(task, completed=done),
        )
        digest = push(place.repository, place.reference.reference, file, arch, reader.image.created, bars)
    host = f"{place.host}/" if place.host else ""
    return f"{host}{place.reference.repository}@{digest}"


def push(repository: Repository, tag: str, disk: Path, arch: str, created: datetime, bars: Progress) -> Digest:
    """Push the file `disk` as the only one of a container image; the digest of its manifest. Idempotent."""
    layer = Layer(disk)
    task = bars.add_task("push", total=layer.size_bytes)
    descriptor = Descriptor(LAYER, layer.digest(), layer.size_bytes)
    config = _json(
        {
            "created": created.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "architecture": arch,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [str(descriptor.digest)]},
            "history": [{"created_by": "dvcr image export --to containerdisk"}],
        }
    )
    layer.push(repository, descriptor.digest, lambda count: bars.advance(task, count))
    config_descriptor = Descriptor(IMAGE_CONFIG, Digest.of(config), len(config))
    repository.push_blob(config_descriptor.digest, config)
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "config": config_descriptor.to_json(),
            "layers": [descriptor.to_json()],
        }
    )
    return repository.put_manifest(tag, manifest, IMAGE_MANIFEST)


class Layer:
    """A tar archive of the folder `disk` with one file in it, never written to a disk itself."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._size = file.stat().st_size
        folder = tarfile.TarInfo("disk")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o555
        entry = tarfile.TarInfo(f"disk/{file.name}")
        entry.size, entry.mode = self._size, 0o440
        for info in (folder, entry):
            info.uid = info.gid = OWNER
        # In the PAX format a file of more than 8 GiB gets a header of its own; every reader of layers knows it.
        self._head = b"".join(info.tobuf(tarfile.PAX_FORMAT) for info in (folder, entry))
        padding = -self._size % tarfile.BLOCKSIZE
        end = len(self._head) + self._size + padding + 2 * tarfile.BLOCKSIZE
        self._tail = bytes(padding + 2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE)

    @property
    def size_bytes(self) -> int:
        """Length of the archive."""
        return len(self._head) + self._size + len(self._tail)

    def pieces(self) -> Iterator[bytes]:
        """The archive's bytes."""
        yield self._head
        with self._file.open("rb") as file:
            while data := file.read(READ_BYTES):
                yield data
        yield self._tail

    def digest(self) -> Digest:
        """The SHA-256 of the archive."""
        hasher = hashlib.sha256()
        for piece in self.pieces():
            hasher.update(piece)
        return Digest("sha256", hasher.hexdigest())

    def push(self, repository: Repository, digest: Digest, on_progress: Callable[[int], None]) -> None:
        """Have the repository hold the archive; `on_progress` gets the length of each piece that is there."""
        upload = None if repository.has_blob(digest) else repository.mount_or_begin(digest)
        if upload is None:
            on_progress(self.size_bytes)
            return
        upload.fill(self.pieces(), digest, on_progress)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
