"""Imports in the foreground, with progress bars."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import Progress

from converter.inspect import ImageInfo
from dvcr.artifact.store import fetch
from dvcr.cli.bars import progress_bars
from dvcr.client.cancellation import Cancellation
from dvcr.client.registry import RegistryClient
from dvcr.config import Settings
from dvcr.digest import Digest
from dvcr.errors import ConfigError
from dvcr.jobs.job import ContainerOrigin
from importer.catalog import describe
from importer.disk_copy import DiskCopy
from importer.pipeline import ImportWatch, import_disk
from importer.reference import ImageReference
from importer.sources.named import SourceOptions, origin_of, settings_for
from importer.sources.opening import describe as describe_origin
from importer.sources.opening import open_source
from importer.sources.source import ImportSource


def import_with_progress(
    settings: Settings, named: str, options: SourceOptions, name: str, checksums: dict[str, str]
) -> dict[str, Any]:
    """Import what `named` names in this process; what became of it as `describe` tells it.

    Raises what `origin_of` and `import_disk` raise.
    """
    origin = origin_of(named, options)
    if checksums and isinstance(origin, ContainerOrigin):
        raise ConfigError(
            "checksums do not go with docker sources: name the image by its digest, REPOSITORY@sha256:..."
        )
    reference = ImageReference.parse(name)
    if isinstance(reference.reference, Digest):
        raise ConfigError(f"{name!r}: an image is imported under a tag, its digest follows from the bytes")
    cancellation = Cancellation()
    client = RegistryClient.from_settings(settings.client).on_behalf_of(cancellation)
    repository = reference.of(client)
    client.ping()
    fetching = settings_for(origin, options, settings.importer)
    with progress_bars() as bars, _cancelled_by_signals(cancellation):
        source = open_source(origin, checksums, client, fetching, cancellation=cancellation)
        try:
            import_disk(
                source,
                repository,
                [reference.reference],
                origin=describe_origin(origin),
                checksums=checksums,
                settings=settings.importer,
                watch=_Bars(bars, source),
            )
        finally:
            source.close()
    stored = fetch(repository, reference.reference)
    Console(stderr=True).print(f"[green]imported[/] {reference} ({stored.digest})", highlight=False, soft_wrap=True)
    return describe(stored)


@contextmanager
def _cancelled_by_signals(cancellation: Cancellation) -> Iterator[None]:
    """While entered, what ends the command also lets go of servers: closing must not wait for one that hangs."""
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def stop(number: int, frame: FrameType | None) -> None:
        # In a thread of its own: this one may hold any lock at the moment.
        threading.Thread(target=cancellation.cancel, daemon=True).start()
        handler = former[signal.Signals(number)]
        assert callable(handler)
        handler(number, frame)

    for number, handler in former.items():
        if callable(handler):
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class _Bars(ImportWatch):
    def __init__(self, bars: Progress, source: ImportSource | DiskCopy) -> None:
        self._bars = bars
        self._source = source
        self._fetch = bars.add_task("fetch", total=None)
        self._convert = bars.add_task("convert", total=None)

    def inspected(self, info: ImageInfo) -> None:
        self._bars.update(self._convert, total=info.virtual_size_bytes, description=f"convert {info.format.value}")

    def copying(self, virtual_size_bytes: int) -> None:
        self._bars.update(self._convert, total=virtual_size_bytes, description="copy")

    def converted(self, size_bytes: int) -> None:
        self._bars.update(self._convert, completed=size_bytes)
        self._bars.update(self._fetch, completed=self._source.fetched_bytes, total=self._source.total_bytes)

    def before_publishing(self) -> None:
        self._bars.update(self._fetch, completed=self._source.fetched_bytes, total=self._source.total_bytes)
