"""The ways to a running guest, over the launcher's HTTP: its screen, its ports, and what it wrote to its console."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from aiohttp import web

from controller.launcher.qmp import MonitorError
from controller.launcher.serial_log import SerialLog
from controller.relay import HEARTBEAT_S, join_stream

VNC_SOCKET = "vnc.sock"
CONNECT_TIMEOUT_S = 10

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Screen(Protocol):
    """What a screenshot needs of a machine."""

    async def screenshot(self, path: Path) -> None:
        """Write what the screen shows to a file that QEMU makes, as PNG; MonitorError where it cannot."""
        ...


class GuestAccess:
    """Routes to one machine.

    The websockets `/vnc` and `/portforward/<port>` carry bytes as `controller.relay` has it. `GET /screenshot` is a
    PNG. `GET /log` is the serial log: `follow=true` goes on to the machine's end, `previous=true` is the run before.
    """

    def __init__(
        self,
        folder: Path,
        address: str,
        answers_at: Callable[[int], int | None],
        serial_log: SerialLog,
        screen: Callable[[], Screen | None],
    ) -> None:
        """`folder` is QEMU's private one. The guest's ports answer at `address`, under the number that `answers_at`
        gives, if any."""
        self._folder = folder
        self._address = address
        self._answers_at = answers_at
        self._serial_log = serial_log
        self._screen = screen
        self._shots = asyncio.Lock()

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/vnc", self._vnc)
        app.router.add_get("/portforward/{port}", self._forward)
        app.router.add_get("/screenshot", self._screenshot)
        app.router.add_get("/log", self._log)

    async def _vnc(self, request: web.Request) -> web.StreamResponse:
        try:
            streams = await asyncio.open_unix_connection(self._folder / VNC_SOCKET)
        except OSError as exc:
            raise web.HTTPConflict(text="the machine's screen is not there yet; it is starting") from exc
        return await _join(request, streams)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        text = request.match_info["port"]
        if not text.isdigit() or not 0 < int(text) < 2**16:
            raise web.HTTPBadRequest(text=f"{text!r} is no port; give a number from 1 to 65535")
        port = self._answers_at(int(text))
        if port is None:
            raise web.HTTPBadGateway(text=f"port {text} of the guest is not forwarded; see launcher.guest_tcp_ports")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                streams = await asyncio.open_connection(self._address, port)
        except TimeoutError as exc:
            raise web.HTTPGatewayTimeout(text=f"port {text} of the guest does not answer") from exc
        except OSError as exc:
            raise web.HTTPBadGateway(
                text=f"port {text} of the guest cannot be reached: {os.strerror(exc.errno or 0)}"
            ) from exc
        return await _join(request, streams)

    async def _screenshot(self, _: web.Request) -> web.StreamResponse:
        screen = self._screen()
        if screen is None:
            raise web.HTTPConflict(text="the machine is still starting")
        path = self._folder / "screen.png"
        async with self._shots:
            try:
                await screen.screenshot(path)
                image = await asyncio.to_thread(path.read_bytes)
            except MonitorError as exc:
                raise web.HTTPConflict(text=exc.message) from exc
            finally:
                path.unlink(missing_ok=True)
        return web.Response(body=image, content_type="image/png")

    async def _log(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        if _flag(request, "previous"):
            pieces = self._serial_log.previous()
            while data := await asyncio.to_thread(next, pieces, b""):
                await response.write(data)
        else:
            async for data in self._serial_log.pieces(follow=_flag(request, "follow")):
                await response.write(data)
        await response.write_eof()
        return response


async def _join(request: web.Request, streams: Streams) -> web.WebSocketResponse:
    reader, writer = streams
    socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, compress=False)
    try:
        await socket.prepare(request)
    except BaseException:
        writer.close()
        raise
    await join_stream(socket, reader, writer)
    return socket


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "").lower() in ("true", "1")
