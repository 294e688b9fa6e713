"""`dvcr uploader`: the service on a socket, until SIGTERM."""

import asyncio
import signal

import structlog
from aiohttp import web

from dvcr.client.registry import RegistryClient
from dvcr.config import Settings
from dvcr.errors import ConfigError
from dvcr.http.tls import ServerTls
from dvcr.jobs.board import JobBoard
from dvcr.jobs.redis import RedisJobBoard
from uploader.app import PATH, UploadService, translate_errors, wait_for_the_checks
from uploader.browsers import CrossOrigin
from uploader.tus import TusProtocol, speak_tus

log = structlog.get_logger(__name__)
# How much aiohttp reads ahead of us, and so the memory of a connection.
READ_BUFFER_BYTES = 2**20
# Also the time that a request's headers have to arrive.
KEEPALIVE_TIMEOUT_S = 120


def build_app(board: JobBoard, client: RegistryClient, settings: Settings) -> tuple[web.Application, UploadService]:
    """The application, and the service in it."""
    service = UploadService(board, client, settings)
    tus = TusProtocol(service, client)
    cross_origin = CrossOrigin(settings.uploader.allowed_origins)
    app = web.Application(
        middlewares=[service.drain.count, service.observer.observe, cross_origin.allow, speak_tus, translate_errors]
    )
    app.on_response_prepare.append(service.drain.end_connection)
    app.on_cleanup.append(service.close)
    app.router.add_put(PATH, service.put, expect_handler=wait_for_the_checks)
    app.router.add_post(PATH, tus.post, expect_handler=wait_for_the_checks)
    app.router.add_patch(PATH, tus.patch, expect_handler=wait_for_the_checks)
    app.router.add_get(PATH, service.get, allow_head=False)
    app.router.add_head(PATH, tus.head)
    app.router.add_delete(PATH, tus.delete)
    app.router.add_options(PATH, tus.options)

    async def healthz(_: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.StreamResponse:
        return web.Response(status=503, text="draining\n") if service.drain.has_begun else web.Response(text="ok\n")

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", service.observer.show)
    return app, service


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, printing the address when ready. Raises ConfigError if it cannot listen."""
    board = RedisJobBoard.from_settings(settings.broker)
    app, service = build_app(board, RegistryClient.from_settings(settings.client), settings)
    tls = ServerTls.from_settings(settings.uploader.tls, "uploader.tls")
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=KEEPALIVE_TIMEOUT_S,
        read_bufsize=READ_BUFFER_BYTES,
        shutdown_timeout=1,
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await runner.setup()
    watching: asyncio.Task[None] | None = None
    try:
        host, port = settings.uploader.host, settings.uploader.port
        site = web.TCPSite(runner, host, port, ssl_context=tls.context if tls else None)
        try:
            await site.start()
        except OSError as exc:
            raise ConfigError(f"cannot listen on {host}:{port} (uploader.host, uploader.port): {exc.strerror}") from exc
        if tls:
            watching = asyncio.create_task(tls.watch())
        host, port = runner.addresses[0][:2]
        print(f"listening on {'https' if tls else 'http'}://{host}:{port}", flush=True)
        await stopping.wait()
        service.stop_receiving()
        await site.stop()
        cut = await service.drain.wait(settings.uploader.drain_timeout_s)
        if cut:
            log.warning("requests are cut off", requests=cut, after_s=settings.uploader.drain_timeout_s)
    finally:
        if watching:
            watching.cancel()
        await runner.cleanup()
