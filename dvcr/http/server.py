"""`dvcr serve`: the application on a socket, with garbage collection beside it, until SIGTERM."""

import asyncio
import signal
import time
from dataclasses import asdict
from ipaddress import ip_address
from threading import Event

import structlog
from aiohttp import web

from dvcr.access.authority import Authority
from dvcr.config import AccessSettings, RegistrySettings
from dvcr.errors import ConfigError
from dvcr.http.app import build_app
from dvcr.http.state import STATE, State
from dvcr.http.tls import ServerTls
from dvcr.http.workers import Worker
from dvcr.registry.registry import Registry

log = structlog.get_logger(__name__)

READ_BUFFER_BYTES = 2**20
# What is left after draining only has to be told that it is over.
SHUTDOWN_TIMEOUT_S = 1
# Also the time that a request's headers have to arrive.
KEEPALIVE_TIMEOUT_S = 120
_LOCAL_NAMES = frozenset({"localhost", "ip6-localhost"})


async def serve(
    registry: Registry, settings: RegistrySettings, access: AccessSettings, worker: Worker | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, printing the address when ready, or telling the parent as one of its workers.

    Raises ConfigError if it cannot listen, or may not: see `open_authority`.
    """
    app = build_app(registry, settings, open_authority(settings, access), access)
    state, tls = app[STATE], ServerTls.from_settings(settings.tls, "registry.tls")
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # blobs are stored as they are sent
        read_bufsize=READ_BUFFER_BYTES,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        keepalive_timeout=KEEPALIVE_TIMEOUT_S,
    )
    await runner.setup()
    context = tls.context if tls else None
    site = web.TCPSite(
        runner, settings.host, settings.port, backlog=1024, ssl_context=context, reuse_port=worker is not None
    )
    try:
        await site.start()
    except OSError as exc:
        await runner.cleanup()
        raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {exc.strerror}") from exc
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if worker:
        loop.add_reader(worker.parent, _orphaned, loop, worker.parent, stopping)
        worker.ready()
    else:
        print(f"listening on {'https' if tls else 'http'}://{settings.host}:{runner.addresses[0][1]}", flush=True)
    stop_collecting = Event()
    tasks: list[asyncio.Task[None]] = []
    if worker is None or worker.index == 0:
        tasks.append(asyncio.create_task(_collect(state, settings.collect_interval_s, stop_collecting)))
    if tls:
        tasks.append(asyncio.create_task(tls.watch()))
    try:
        await stopping.wait()
        state.drain.has_begun = True
        await asyncio.sleep(settings.drain_delay_s)
        await site.stop()
        cut = await state.drain.wait(settings.drain_timeout_s)
        if cut:
            log.warning("requests are cut off", requests=cut, after_s=settings.drain_timeout_s)
    finally:
        stop_collecting.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await runner.cleanup()
        state.registry.verifier.close()
        state.threads.shutdown()
        state.bodies.shutdown()


def _orphaned(loop: asyncio.AbstractEventLoop, parent: int, stopping: asyncio.Event) -> None:
    loop.remove_reader(parent)
    stopping.set()


def open_authority(settings: RegistrySettings, access: AccessSettings) -> Authority | None:
    """Whom the settings say to ask who may do what; None where everybody may do everything.

    Raises ConfigError where the registry would be reachable from elsewhere without anybody having said so.
    """
    configured = access.htpasswd_file or access.issuers or access.rules or settings.tls.client_ca_file
    if access.anonymous == "full":
        if configured:
            raise ConfigError("access.anonymous is 'full', so the other settings of access and client_ca_file are void")
        return None
    if configured:
        return Authority.from_settings(access)
    if _is_loopback(settings.host):
        return None
    raise ConfigError(
        f"registry.host is {settings.host!r}, which others can reach, and nothing says who may do what: set "
        'access.htpasswd_file (see docs/access.md), or access.anonymous = "full" to let everybody do everything'
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in _LOCAL_NAMES


async def _collect(state: State, interval_s: float, stop: Event) -> None:
    """Collect garbage every `interval_s`; a run that fails is logged, and the next one tries again."""
    while True:
        await asyncio.sleep(interval_s)
        begin = time.monotonic()
        try:
            report = await asyncio.to_thread(state.registry.collector.run, stop=stop.is_set)
        except Exception:
            state.metrics.collection_failed()
            log.exception("garbage collection failed")
        else:
            state.metrics.collected(report, time.monotonic() - begin)
            log.info("garbage collected", **asdict(report))
