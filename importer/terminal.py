"""Imports and exports in the foreground, with progress bars."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from converter.export import ExportFormat, export_image
from converter.inspect import ImageInfo
from converter.nbd.image import ImageExport
from dvcr.artifact.reader import ImageReader
from dvcr.artifact.store import fetch
from dvcr.client.registry import RegistryClient
from dvcr.config import Settings
from dvcr.digest import Digest
from dvcr.errors import ConfigError
from dvcr.jobs.job import HttpOrigin
from importer.catalog import describe
from importer.pipeline import ImportWatch, import_disk
from importer.reference import ImageReference
from importer.sources.opening import describe as describe_origin
from importer.sources.opening import open_source
from importer.sources.source import ImportSource

_READ_AHEAD = 4


def import_with_progress(
    settings: Settings, origin: HttpOrigin, name: str, checksums: dict[str, str]
) -> dict[str, Any]:
    """Import in this process; what became of it as `describe` tells it. Raises what `import_disk` raises."""
    reference = ImageReference.parse(name)
    if isinstance(reference.reference, Digest):
        raise ConfigError(f"{name!r}: an image is imported under a tag, its digest follows from the bytes")
    client = RegistryClient.from_settings(settings.client)
    repository = reference.of(client)
    client.ping()
    with _bars() as bars:
        source = open_source(origin, checksums, client, settings.importer)
        try:
            import_disk(
                source,
                repository,
                [reference.reference],
                origin=describe_origin(origin),
                checksums=checksums,
                max_virtual_size_bytes=settings.importer.max_virtual_size_bytes,
                watch=_Bars(bars, source),
            )
        finally:
            source.close()
    stored = fetch(repository, reference.reference)
    Console(stderr=True).print(f"[green]imported[/] {reference} ({stored.digest})", highlight=False, soft_wrap=True)
    return describe(stored)


def export_with_progress(settings: Settings, name: str, destination: Path, format_: str) -> None:
    """Write the image to `destination`, in the format that is named or that the suffix says."""
    wanted = format_ or destination.suffix.lstrip(".").replace("img", "raw")
    try:
        export_format = ExportFormat(wanted.lower())
    except ValueError:
        known = ", ".join(ExportFormat)
        raise ConfigError(f"{wanted or destination.name!r} is no format to export to; use --format: {known}") from None
    reference = ImageReference.parse(name)
    repository = reference.of(RegistryClient.from_settings(settings.client))
    stored = fetch(repository, reference.reference)
    with ImageReader(repository, stored.image, read_ahead=_READ_AHEAD) as reader, _bars() as bars:
        task = bars.add_task("export", total=stored.image.virtual_size_bytes)
        export_image(
            ImageExport(reader), destination, export_format, on_progress=lambda done: bars.update(task, completed=done)
        )
        bars.update(task, completed=stored.image.virtual_size_bytes)


class _Bars(ImportWatch):
    def __init__(self, bars: Progress, source: ImportSource) -> None:
        self._bars = bars
        self._source = source
        self._fetch = bars.add_task("fetch", total=None)
        self._convert = bars.add_task("convert", total=None)

    def inspected(self, info: ImageInfo) -> None:
        self._bars.update(self._convert, total=info.virtual_size_bytes, description=f"convert {info.format.value}")

    def converted(self, size_bytes: int) -> None:
        self._bars.update(self._convert, completed=size_bytes)
        self._bars.update(self._fetch, completed=self._source.fetched_bytes, total=self._source.total_bytes)

    def before_publishing(self) -> None:
        self._bars.update(self._fetch, completed=self._source.fetched_bytes, total=self._source.total_bytes)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
