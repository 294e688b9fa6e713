"""From the origin that a job names to the source that reads it."""

from collections.abc import Mapping

from dvcr.client.registry import RegistryClient
from dvcr.config import ImporterSettings
from dvcr.jobs.job import BlobOrigin, HttpOrigin
from importer.sources.blob import BlobSource
from importer.sources.http import HttpSource
from importer.sources.source import ImportSource


def open_source(
    origin: HttpOrigin | BlobOrigin, checksums: Mapping[str, str], client: RegistryClient, settings: ImporterSettings
) -> ImportSource:
    """The source; the caller closes it. A new kind of source gets its line here."""
    match origin:
        case HttpOrigin():
            return HttpSource(origin, checksums, settings.scratch_dir, settings)
        case BlobOrigin():
            return BlobSource(client.repository(origin.repository), origin, checksums)


def describe(origin: HttpOrigin | BlobOrigin) -> str:
    """What the artifact tells people about its origin; without the query, which may hold a signature."""
    match origin:
        case HttpOrigin():
            scheme, _, rest = origin.url.partition("://")
            return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
        case BlobOrigin():
            return "upload"
