"""The line from a source to an image in the registry: inspect, convert, verify, publish."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from converter.convert import convert
from converter.inspect import ImageInfo, inspect
from dvcr.artifact.image import DiskImage, ImageSource
from dvcr.artifact.store import publish
from dvcr.client.repository import Repository
from dvcr.config import ImporterSettings
from dvcr.errors import DvcrError, ImageError
from dvcr.jobs.job import ImportStage
from importer.disk_copy import DiskCopy
from importer.recall import ChunkIndex, RecalledChunks
from importer.sources.source import ImportSource
from importer.staging import StagedChunks
from importer.unwrap import unwrapped

log = structlog.get_logger(__name__)


class TakenOverError(DvcrError):
    """Another worker runs this import now."""

    default_reason = "TakenOver"


class ImportWatch:
    """What an import tells while it runs, and how it is told to stop. Override what is of interest."""

    def entered(self, stage: ImportStage) -> None:
        """The stage begins. May raise to stop the import."""

    def inspected(self, info: ImageInfo) -> None:
        """The image's format and size are known."""

    def copying(self, virtual_size_bytes: int) -> None:
        """The source is a disk of DVCR of that size: it is copied, not converted."""

    def converted(self, size_bytes: int) -> None:
        """So much of the virtual disk is stored. May raise to stop the import."""

    def before_publishing(self) -> None:
        """All is stored and proven. May raise to stop the import."""


def import_disk(
    source: ImportSource | DiskCopy,
    repository: Repository,
    tags: Iterable[str],
    *,
    origin: str,
    checksums: dict[str, str],
    settings: ImporterSettings,
    watch: ImportWatch,
    index: ChunkIndex | None = None,
) -> DiskImage:
    """Make the disk that `source` holds an image of `repository` under `tags`, set in that order.

    Chunks that `index` knows and the registry has are neither compressed nor sent.
    A DiskCopy is not converted: its chunks are taken over, and only the config is written anew.

    Nothing is visible before every promised checksum and the conversion proved good. Raises SourceError, ImageError,
    IntegrityError, StorageError or RegistryError. The chunks of an import that failed stay without a manifest until
    garbage collection takes them: another import of the repository may need the same ones, and so may the next attempt.
    """
    if isinstance(source, DiskCopy):
        return _copy(source, repository, tags, origin, settings.max_virtual_size_bytes, watch)
    staged = StagedChunks(repository)
    with ExitStack() as cleanup:
        cleanup.callback(staged.close)
        watch.entered(ImportStage.FETCHING)
        unpacked = cleanup.enter_context(unwrapped(source, settings))
        info = inspect(unpacked, max_virtual_size_bytes=settings.max_virtual_size_bytes)
        watch.inspected(info)
        watch.entered(ImportStage.CONVERTING)
        disk = convert(
            unpacked,
            info,
            staged if index is None else RecalledChunks(staged, repository, index),
            on_progress=watch.converted,
            max_virtual_size_bytes=settings.max_virtual_size_bytes,
            max_unpacking_ratio=settings.max_unpacking_ratio,
        )
        watch.entered(ImportStage.STORING)
        staged.drain()
        watch.entered(ImportStage.VERIFYING)
        unpacked.finish()
        image = DiskImage(
            virtual_size_bytes=disk.virtual_size_bytes,
            chunk_size_bytes=disk.chunk_size_bytes,
            chunks=disk.chunks,
            cdrom=info.cdrom,
            source=ImageSource(disk.format.value, source.size_bytes(), checksums, origin),
            created=datetime.now(UTC),
        )
        watch.before_publishing()
        publish(repository, image, tags)
    log.info("image published", repository=repository.name, sent_bytes=staged.sent_bytes)
    return image


def _copy(
    source: DiskCopy,
    repository: Repository,
    tags: Iterable[str],
    origin: str,
    max_virtual_size_bytes: int,
    watch: ImportWatch,
) -> DiskImage:
    size_bytes = source.image.virtual_size_bytes
    if size_bytes > max_virtual_size_bytes:
        message = f"the disk has {size_bytes} bytes; importer.max_virtual_size_bytes allows {max_virtual_size_bytes}"
        raise ImageError(message, reason="VirtualSizeTooLarge")
    watch.entered(ImportStage.STORING)
    watch.copying(size_bytes)
    source.copy(repository, watch.converted)
    image = replace(source.image, source=replace(source.image.source, origin=origin), created=datetime.now(UTC))
    watch.before_publishing()
    publish(repository, image, tags)
    log.info("image copied", repository=repository.name, sent_bytes=source.sent_bytes)
    return image
