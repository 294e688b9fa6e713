"""`dvcr serve`: the application on a socket, with garbage collection beside it, until SIGTERM."""

import asyncio
import signal
from contextlib import suppress
from dataclasses import asdict
from threading import Event

import structlog
from aiohttp import web

from dvcr.config import RegistrySettings
from dvcr.errors import ConfigError
from dvcr.http.app import build_app
from dvcr.http.state import STATE
from dvcr.registry.collect import Collector
from dvcr.registry.registry import Registry

log = structlog.get_logger(__name__)

READ_BUFFER_BYTES = 2**20
SHUTDOWN_TIMEOUT_S = 10


async def serve(registry: Registry, settings: RegistrySettings) -> None:
    """Serve until SIGTERM or SIGINT, printing the address when ready. Raises ConfigError if it cannot listen."""
    app = build_app(registry, settings)
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # blobs are stored as they are sent
        read_bufsize=READ_BUFFER_BYTES,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
    )
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
    try:
        await site.start()
    except OSError as exc:
        await runner.cleanup()
        raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {exc.strerror}") from exc
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    print(f"listening on http://{settings.host}:{runner.addresses[0][1]}", flush=True)
    stop_collecting = Event()
    collecting = asyncio.create_task(_collect(registry.collector, settings.collect_interval_s, stop_collecting))
    try:
        await stopping.wait()
    finally:
        stop_collecting.set()
        collecting.cancel()
        with suppress(asyncio.CancelledError):
            await collecting
        await runner.cleanup()
        app[STATE].threads.shutdown()


async def _collect(collector: Collector, interval_s: float, stop: Event) -> None:
    """Collect garbage every `interval_s`; a run that fails is logged, and the next one tries again."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            report = await asyncio.to_thread(collector.run, stop=stop.is_set)
        except Exception:
            log.exception("garbage collection failed")
        else:
            log.info("garbage collected", **asdict(report))
