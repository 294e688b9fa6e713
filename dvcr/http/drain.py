"""Ending without cutting anybody off."""

import asyncio
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Handler


def close_after(response: web.StreamResponse) -> None:
    """End the connection after the answer, and say so; for `on_response_prepare`, where aiohttp has said its own."""
    response.force_close()
    response.headers["Connection"] = "close"


class Drain:
    """Knows the requests under way. aiohttp's own shutdown lets handlers finish, but reads no more of their bodies."""

    def __init__(self) -> None:
        self.has_begun = False
        """Whether the server is about to end: probes say so, and each answer is the last on its connection."""
        self._under_way = 0
        self._idle = asyncio.Event()

    @web.middleware
    async def count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Know of the request while it is under way."""
        self._under_way += 1
        try:
            return await handler(request)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def end_connection(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Have clients come back elsewhere for their next request."""
        if self.has_begun:
            close_after(response)

    async def wait(self, timeout_s: float) -> int:
        """Return once no request is under way, or after `timeout_s`; gives the number of those that still are."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._under_way:
                    self._idle.clear()
                    await self._idle.wait()
        return self._under_way
