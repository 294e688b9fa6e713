"""Is it there, is it well."""

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from dvcr.http.errors import wire_error
from dvcr.http.state import STATE

_STANDS_S = 60.0


class Readiness:
    """A good answer of a check stands for a minute: probes come every few seconds, from anybody, and over a bucket one
    takes seven requests, four of which write or delete.
    """

    def __init__(self, check: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.monotonic) -> None:
        self._check = check
        self._clock = clock
        self._stands_until = 0.0

    async def confirm(self) -> None:
        """Raise what the check raises, unless it has just had nothing to say."""
        now = self._clock()
        if now >= self._stands_until:
            await self._check()
            self._stands_until = now + _STANDS_S


READINESS = web.AppKey("readiness", Readiness)


async def api_version(_request: web.Request) -> web.Response:
    """GET /v2/: this is a registry (distribution-spec, "Determining Support")."""
    headers = {"Content-Type": "application/json", "Docker-Distribution-API-Version": "registry/2.0"}
    return web.Response(body=b"{}", headers=headers)


async def alive(_request: web.Request) -> web.Response:
    """GET /healthz: the process answers."""
    return web.Response(text="ok\n")


async def ready(request: web.Request) -> web.Response:
    """GET /readyz: the storage takes writes; otherwise the error says what it lacks. Not while the server ends."""
    if request.app[STATE].drain.has_begun:
        return wire_error(503, "UNAVAILABLE", "the server is about to end")
    await request.app[READINESS].confirm()
    return web.Response(text="ok\n")
