"""From the origin that a job names to the source that reads it."""

from collections.abc import Mapping

from dvcr.client.registry import RegistryClient
from dvcr.config import ImporterSettings
from dvcr.jobs.job import BlobOrigin, HttpOrigin, Origin
from importer.checksums import Checksums
from importer.sources.blob import BlobSource
from importer.sources.download import HttpDownload
from importer.sources.request import shown
from importer.sources.source import ImportSource
from importer.sources.spooled import SpooledSource
from importer.spool import Spool


def open_source(
    origin: Origin,
    checksums: Mapping[str, str],
    client: RegistryClient,
    settings: ImporterSettings,
    *,
    job_id: str = "",
) -> ImportSource:
    """The source; the caller closes it. A new kind of source gets its line here.

    With a `job_id`, an import that was killed goes on with what its last delivery on this machine had fetched.
    """
    match origin:
        case HttpOrigin():
            verified = Checksums(checksums)
            download = HttpDownload(origin, settings, verified=bool(checksums))
            return SpooledSource(download, verified, Spool(settings.scratch_dir, job_id))
        case BlobOrigin():
            return BlobSource(client.repository(origin.repository), origin, checksums)


def describe(origin: Origin) -> str:
    """What the artifact tells people about its origin; nothing that may be secret."""
    match origin:
        case HttpOrigin():
            return shown(origin.url)
        case BlobOrigin():
            return "upload"
