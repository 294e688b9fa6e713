"""From the origin that a job names to the source that reads it."""

from collections.abc import Mapping

from converter.wrappers import UnpackingLimits
from dvcr.artifact.image import DiskImage
from dvcr.artifact.store import fetch
from dvcr.client.cancellation import Cancellation
from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.client.retry import TellRetry
from dvcr.config import ImporterSettings
from dvcr.digest import Digest
from dvcr.errors import RegistryError, SourceError
from dvcr.jobs.job import BlobOrigin, ContainerOrigin, HttpOrigin, ImageOrigin, Origin
from importer.checksums import Checksums
from importer.disk_copy import DiskCopy
from importer.sources.blob import BlobSource
from importer.sources.container import ContainerImage, is_disk_artifact
from importer.sources.download import HttpDownload
from importer.sources.layer import LayerDownload
from importer.sources.request import shown
from importer.sources.s3 import S3Download, S3Origin
from importer.sources.source import ImportSource
from importer.sources.spooled import SpooledSource
from importer.spool import Spool


def open_source(
    origin: Origin | S3Origin,
    checksums: Mapping[str, str],
    client: RegistryClient,
    settings: ImporterSettings,
    *,
    job_id: str = "",
    cancellation: Cancellation | None = None,
    on_retry: TellRetry = lambda _: None,
) -> ImportSource | DiskCopy:
    """The source; the caller closes it. A new kind of source gets its line here.

    With a `job_id`, an import that was killed goes on with what its last delivery on this machine had fetched.
    `cancellation` ends it while it is still being opened, with RequestCancelledError, and later as `abort` does;
    `on_retry` is told what another registry is asked again for.
    """
    cancellation = cancellation or Cancellation()
    source = _open(origin, checksums, client, settings, job_id, cancellation, on_retry)
    cancellation.on_cancel(source.abort)
    return source


def _open(
    origin: Origin | S3Origin,
    checksums: Mapping[str, str],
    client: RegistryClient,
    settings: ImporterSettings,
    job_id: str,
    cancellation: Cancellation,
    on_retry: TellRetry,
) -> ImportSource | DiskCopy:
    match origin:
        case HttpOrigin():
            verified = Checksums(checksums)
            download = HttpDownload(origin, settings, verified=bool(checksums))
            spool = Spool(settings.scratch_dir, job_id)
            return SpooledSource(download, verified, spool, max_bytes=settings.max_source_bytes)
        case S3Origin():
            s3 = S3Download(origin, settings)
            spool = Spool(settings.scratch_dir)
            return SpooledSource(s3, Checksums(checksums), spool, max_bytes=settings.max_source_bytes)
        case ContainerOrigin():
            image = ContainerImage(origin, settings, cancellation, on_retry)
            return _open_container(image, checksums, client, settings)
        case ImageOrigin():
            source = client.on_behalf_of(cancellation).repository(origin.repository)
            return DiskCopy(source, _fetch(source, Digest.parse(origin.digest)), same_registry=True)
        case BlobOrigin():
            return BlobSource(client.repository(origin.repository), origin, checksums)


def describe(origin: Origin | S3Origin) -> str:
    """What the artifact tells people about its origin; nothing that may be secret."""
    match origin:
        case HttpOrigin():
            return shown(origin.url)
        case S3Origin():
            return str(origin)
        case ContainerOrigin():
            return f"docker://{origin.image}"
        case ImageOrigin():
            return f"{origin.repository}@{origin.digest}"
        case BlobOrigin():
            return "upload"


def _open_container(
    image: ContainerImage, checksums: Mapping[str, str], client: RegistryClient, settings: ImporterSettings
) -> ImportSource | DiskCopy:
    try:
        manifest = image.manifest()
        if is_disk_artifact(manifest):
            same = client.host == image.reference.host
            return DiskCopy(
                image.repository, image.disk(manifest), same_registry=same, failed=image.failed, close=image.close
            )
        limits = UnpackingLimits(settings.max_unpacked_bytes, settings.max_unpacking_ratio)
        download = LayerDownload(image, image.layers(manifest), limits)
    except BaseException:
        image.close()
        raise
    spool = Spool(settings.scratch_dir)
    return SpooledSource(download, Checksums(checksums), spool, max_bytes=settings.max_source_bytes)


def _fetch(repository: Repository, digest: Digest) -> DiskImage:
    try:
        return fetch(repository, digest).image
    except RegistryError as exc:
        if exc.status != 404:
            raise
        message = f"the image {repository.name}@{digest} is gone; create the resource again from one that is there"
        raise SourceError(message, reason="SourceNotFound") from exc
