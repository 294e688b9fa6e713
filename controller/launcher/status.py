"""What the launcher answers over HTTP: `/healthz` to all; `/status`, `PUT /disks` and the websocket `/console` to the
controller.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from contextlib import asynccontextmanager

from aiohttp import WSMsgType, web
from aiohttp.typedefs import Handler, Middleware
from pydantic import ValidationError

from controller.launcher.console import Console
from controller.launcher.migration_routes import RESUME_PATH
from controller.launcher.spec import CONTROLLER_IDENTITY, DiskWishes, MachineStatus
from dvcr.access.certificates import certificate_caller
from dvcr.access.errors import CredentialsError
from dvcr.errors import ConfigError
from dvcr.http.tls import ServerTls


def build_health_app(status: Callable[[], Awaitable[MachineStatus]]) -> web.Application:
    """The application for probes; `/healthz` is 200 from the guest's first instruction on, 503 before."""

    async def healthz(_: web.Request) -> web.Response:
        state = (await status()).state
        return web.Response(text=f"{state}\n", status=200 if state.has_guest else 503)

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    return app


def build_app(
    status: Callable[[], Awaitable[MachineStatus]],
    want: Callable[[DiskWishes], bool],
    console: Console,
    identity: str,
) -> web.Application:
    """The application for the controller, and for launchers of the same machine, whose `identity` that is, when it has
    moved; everybody else gets 403.

    `want` takes the wishes for the machine's disks, or is False while there is no machine yet.
    """

    async def show_status(_: web.Request) -> web.Response:
        return web.json_response(text=(await status()).model_dump_json())

    async def put_disks(request: web.Request) -> web.Response:
        try:
            wishes = DiskWishes.model_validate_json(await request.read())
        except ValidationError as exc:
            return web.Response(status=400, text=f"{exc}\n")
        return web.Response(status=202 if want(wishes) else 503)

    async def attach(request: web.Request) -> web.WebSocketResponse:
        peer = web.WebSocketResponse(heartbeat=20)
        await peer.prepare(request)
        with console.watch() as output:
            sender = asyncio.create_task(_send(output, peer))
            try:
                async for message in peer:
                    if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                        data = message.data
                        await console.write(data.encode() if isinstance(data, str) else data)
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
        return peer

    app = web.Application(middlewares=[_allowing({CONTROLLER_IDENTITY}, {RESUME_PATH: identity})])
    app.router.add_get("/status", show_status)
    app.router.add_put("/disks", put_disks)
    app.router.add_get("/console", attach)
    return app


def _allowing(everything: Container[str], paths: Mapping[str, str]) -> Middleware:
    """Lets those in by whose certificates they may; `paths` has who may also, and where."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        certificate = request.get_extra_info("peercert") or {}
        try:
            name = certificate_caller(certificate).user
        except CredentialsError as exc:
            raise web.HTTPForbidden(text=exc.message) from exc
        if name not in everything and paths.get(request.path) != name:
            raise web.HTTPForbidden(text=f"{name} is not the controller")
        return await handler(request)

    return check


async def _send(output: "asyncio.Queue[bytes | None]", peer: web.WebSocketResponse) -> None:
    while (data := await output.get()) is not None:
        await peer.send_bytes(data)
    await peer.close()


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int, tls: ServerTls | None = None) -> AsyncIterator[None]:
    """Serve the application while the context is entered; ConfigError if the address cannot be had, retryable where
    somebody else has it now.

    With `tls`, certificates that change are taken over.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    watching = asyncio.create_task(tls.watch()) if tls else None
    try:
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls.context if tls else None).start()
        except OSError as exc:
            message = f"cannot listen on {host}:{port}: {exc.strerror}"
            raise ConfigError(message, retryable=exc.errno == errno.EADDRINUSE) from exc
        yield
    finally:
        if watching is not None:
            watching.cancel()
        await runner.cleanup()
