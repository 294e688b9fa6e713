"""`dvcr serve`, `dvcr gc` and `dvcr scrub`."""

import os
from datetime import timedelta
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from dvcr.config import RegistrySettings, Settings

if TYPE_CHECKING:
    from dvcr.http.workers import Worker
    from dvcr.registry.registry import Registry
    from dvcr.registry.trust import Trust

_M_ARENA_MAX = -8  # of <malloc.h>


def register(app: typer.Typer) -> None:
    """Add the registry's commands to `dvcr`."""
    app.command()(serve)
    app.command()(gc)
    app.command()(scrub)


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65535)] = None,
    workers: Annotated[int | None, typer.Option(help="Server processes that share the port.", min=1)] = None,
) -> None:
    """Run the registry until Ctrl-C.

    Example: `DVCR__ACCESS__HTPASSWD_FILE=/etc/dvcr/htpasswd dvcr serve --host 0.0.0.0 --port 5000`
    """
    settings: Settings = context.obj
    options = {"host": host, "port": port, "workers": workers}
    http = settings.registry.model_copy(update={name: value for name, value in options.items() if value is not None})
    from dvcr.registry.trust import Trust

    run = partial(_serve, settings, http, Trust())
    if http.workers == 1:
        return run()
    with TemporaryDirectory(prefix="dvcr-metrics-") as metrics:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics  # read when the next line imports prometheus_client
        from dvcr.http.workers import run_workers

        scheme = "https" if http.tls.certificate_file else "http"
        return run_workers(http.workers, scheme, http.host, http.port, run)


def _serve(
    settings: Settings,
    http: RegistrySettings,
    trust: "Trust",
    worker: "Worker | None" = None,
    port: int | None = None,
) -> None:
    import asyncio

    from dvcr.http.server import serve as serve_registry

    _share_heaps()
    registry = _open_registry(settings, http.collect_grace_s, trust)
    http = http if port is None else http.model_copy(update={"port": port})
    asyncio.run(serve_registry(registry, http, settings.access, worker))


def _share_heaps() -> None:
    """Keep glibc from giving each thread a heap of its own, where freed buffers would stay: 164 instead of 240 MB."""
    import ctypes
    from contextlib import suppress

    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def gc(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    grace: Annotated[
        float | None,
        typer.Option(help="Seconds that unreferenced blobs are kept; 0 only while nobody pushes.", min=0),
    ] = None,
) -> None:
    """Remove blobs that no manifest needs, and abandoned uploads. The registry may go on working meanwhile.

    Example: `dvcr gc --dry-run --grace 600`
    """
    settings: Settings = context.obj
    registry = _open_registry(settings, settings.registry.collect_grace_s if grace is None else grace)
    report = registry.collector.run(dry_run=dry_run)
    typer.echo(
        f"{'would remove' if dry_run else 'removed'} {report.blobs} blobs ({report.bytes / 2**20:.1f} MiB), "
        f"{report.links} links, {report.uploads} uploads, {report.repositories} empty repositories"
    )
    if report.unreadable:
        typer.echo(
            f"kept everything of {report.unreadable} repositories with a manifest that cannot be read; see dvcr scrub"
        )


def scrub(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Read every blob and manifest, move what is corrupt to quarantine, and name the images it hits.

    The registry may go on working meanwhile. What is in quarantine is not served; pushing it again heals the images.
    Exit status 3: something was found.

    Example: `dvcr scrub --json`
    """
    from dvcr.cli.scrub import scrub as scrub_registry

    settings: Settings = context.obj
    registry = _open_registry(settings, settings.registry.collect_grace_s)
    raise typer.Exit(scrub_registry(registry, as_json=as_json))


def _open_registry(settings: Settings, grace_s: float, trust: "Trust | None" = None) -> "Registry":
    from dvcr.registry.registry import Registry
    from dvcr.storage.configured import open_storage

    return Registry(
        open_storage(settings.storage),
        grace=timedelta(seconds=grace_s),
        upload_expiry=timedelta(seconds=settings.registry.upload_expiry_s),
        sparse_images=settings.registry.sparse_images,
        verify_interval=timedelta(seconds=settings.registry.verify_interval_s),
        quotas=settings.registry.quotas,
        trust=trust,
    )
