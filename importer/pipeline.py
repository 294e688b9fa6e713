"""The line from a source to an image in the registry: inspect, convert, verify, publish."""

from collections.abc import Iterable
from datetime import UTC, datetime

import structlog

from converter.convert import convert
from converter.inspect import ImageInfo, inspect
from dvcr.artifact.image import DiskImage, ImageSource
from dvcr.artifact.manifest import config_json
from dvcr.artifact.store import publish
from dvcr.client.repository import Repository
from dvcr.digest import Digest
from dvcr.errors import DvcrError
from importer.sources.source import ImportSource
from importer.staging import StagedChunks

log = structlog.get_logger(__name__)


class TakenOverError(DvcrError):
    """Another worker runs this import now, so what was stored for it must stay."""

    default_reason = "TakenOver"


class ImportWatch:
    """What an import tells while it runs, and how it is told to stop. Override what is of interest."""

    def inspected(self, info: ImageInfo) -> None:
        """The image's format and size are known."""

    def converted(self, size_bytes: int) -> None:
        """So much of the virtual disk is stored. May raise to stop the import."""

    def before_publishing(self) -> None:
        """All is stored and proven. May raise to stop the import."""


def import_disk(
    source: ImportSource,
    repository: Repository,
    tags: Iterable[str],
    *,
    origin: str,
    checksums: dict[str, str],
    max_virtual_size_bytes: int,
    watch: ImportWatch,
) -> DiskImage:
    """Make the disk that `source` holds an image of `repository` under `tags`, set in that order.

    Nothing is visible before every promised checksum and the conversion proved good. Raises SourceError, ImageError,
    IntegrityError, StorageError or RegistryError, after everything it stored was removed again (but for TakenOverError,
    raised by `watch`).
    """
    staged = StagedChunks(repository)
    try:
        info = inspect(source, max_virtual_size_bytes=max_virtual_size_bytes)
        watch.inspected(info)
        disk = convert(source, info, staged, on_progress=watch.converted)
        staged.drain()
        source.finish()
        image = DiskImage(
            virtual_size_bytes=disk.virtual_size_bytes,
            chunk_size_bytes=disk.chunk_size_bytes,
            chunks=disk.chunks,
            cdrom=info.cdrom,
            source=ImageSource(info.format.value, source.size_bytes(), checksums, origin),
            created=datetime.now(UTC),
        )
        watch.before_publishing()
        staged.add(Digest.of(config_json(image)))
        publish(repository, image, tags)
    except TakenOverError:
        raise
    except BaseException:
        _take_back(staged, repository)
        raise
    finally:
        staged.close()
    log.info("image published", repository=repository.name, sent_bytes=staged.sent_bytes)
    return image


def _take_back(staged: StagedChunks, repository: Repository) -> None:
    try:
        staged.discard()
    except DvcrError as error:
        # The import's own error tells the user more. What stays is referred to by nothing: garbage collection takes it.
        log.warning("chunks of a failed import stay until garbage collection", repository=repository.name, error=error)
