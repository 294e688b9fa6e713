"""Clients that take nothing of their answer."""

import socket

from aiohttp import web

from dvcr.http.state import STATE


async def limit_silence(request: web.Request, _response: web.StreamResponse) -> None:
    """Have the kernel end the connection of a client that takes no byte for so long: writes know no timeout."""
    connection = request.transport.get_extra_info("socket") if request.transport else None
    if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        timeout_ms = int(request.app[STATE].settings.download_idle_timeout_s * 1000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
