"""`dvcr image copy`."""

from rich.console import Console
from rich.filesize import decimal

from dvcr.cli.bars import progress_bars
from dvcr.client.copy import copy, plan
from dvcr.digest import Digest
from dvcr.errors import ConfigError
from importer.registries import Registries


def copy_with_progress(registries: Registries, source: str, destination: str) -> str:
    """Copy what `source` names to `destination`; the name of the copy, by digest. Raises what `copy` raises."""
    origin, target = registries.open(source), registries.open(destination)
    if isinstance(target.reference.reference, Digest):
        raise ConfigError(f"{destination!r}: a copy is made under a tag, its digest is that of the source")
    what = plan(origin.repository, origin.reference.reference)
    with progress_bars() as bars:
        task = bars.add_task("copy", total=what.total_bytes)
        copied = copy(
            origin.repository,
            target.repository,
            what,
            target.reference.reference,
            same_registry=origin.host == target.host,
            on_progress=lambda count: bars.advance(task, count),
        )
    Console(stderr=True).print(
        f"[green]copied[/] {origin} to {target}: {copied.sent_blobs} of {len(what.blobs)} blobs sent, "
        f"{decimal(copied.sent_bytes)} of {decimal(copied.total_bytes)}",
        highlight=False,
        soft_wrap=True,
    )
    host = f"{target.host}/" if target.host else ""
    return f"{host}{target.reference.repository}@{copied.digest}"
