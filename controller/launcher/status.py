"""What the launcher answers over HTTP: `/healthz`, `/status` and the websocket `/console`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import WSMsgType, web

from controller.launcher.console import Console
from controller.launcher.spec import MachineState, MachineStatus
from dvcr.errors import ConfigError


def build_app(status: Callable[[], Awaitable[MachineStatus]], console: Console) -> web.Application:
    """The application; `/healthz` is 200 from the guest's first instruction on, 503 before."""

    async def healthz(_: web.Request) -> web.Response:
        state = (await status()).state
        return web.Response(text=f"{state}\n", status=503 if state is MachineState.STARTING else 200)

    async def show_status(_: web.Request) -> web.Response:
        return web.json_response(text=(await status()).model_dump_json())

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

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/status", show_status)
    app.router.add_get("/console", attach)
    return app


async def _send(output: "asyncio.Queue[bytes | None]", peer: web.WebSocketResponse) -> None:
    while (data := await output.get()) is not None:
        await peer.send_bytes(data)
    await peer.close()


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[None]:
    """Serve the application while the context is entered; ConfigError if the address cannot be had."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as exc:
            raise ConfigError(f"cannot listen on {host}:{port}: {exc.strerror}") from exc
        yield
    finally:
        await runner.cleanup()
