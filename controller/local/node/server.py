"""The part of the kubelet's API that the API server asks: the logs of containers."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web

from controller.certificates import Authority
from controller.local.node import logs
from dvcr.errors import NotFoundError

_LIFETIME = timedelta(days=3650)

FindContainer = Callable[[str, str, str], Path | None]
"""The folder of a container, by namespace, pod and container name."""


class LogServer:
    """Serves `GET /containerLogs/<namespace>/<pod>/<container>` over HTTPS on a thread of its own.

    The certificate is new at each start and nobody's: as with a kubelet's own, API servers do not check it.

    Query: `follow`, `previous`, `timestamps` (true), `tailLines` (a number). Only the present and the previous run of
    a container have logs, each of a bounded size.
    """

    def __init__(self, find: FindContainer, alive: Callable[[Path], bool], host: str) -> None:
        self._find = find
        self._alive = alive
        self._host = host
        self._loop = asyncio.new_event_loop()
        self._stopping = threading.Event()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="logs", daemon=True)

    def start(self) -> int:
        """Begin to serve; returns the port."""
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def stop(self) -> None:
        """End every follower and the server."""
        self._stopping.set()
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> int:
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0, ssl_context=_server_context(self._host))
        await site.start()
        return int(self._runner.addresses[0][1])

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        names = request.match_info
        tail = request.query.get("tailLines", "")
        if tail and not tail.isdigit():
            raise web.HTTPBadRequest(text=f"tailLines {tail!r} is no number")
        folder = await asyncio.to_thread(self._find, names["namespace"], names["pod"], names["container"])
        if folder is None:
            raise web.HTTPNotFound(text=f"container {names['container']!r} of pod {names['pod']!r} is not on this node")
        try:
            log = logs.log_of(folder, previous=_flag(request, "previous"))
        except NotFoundError as exc:
            raise web.HTTPBadRequest(text=exc.message) from exc
        pieces = logs.read(
            log,
            tail_lines=int(tail) if tail else None,
            timestamps=_flag(request, "timestamps"),
            follow=(lambda: self._alive(log.parent) and not self._stopping.is_set())
            if _flag(request, "follow")
            else None,
        )
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        while (piece := await asyncio.to_thread(_batch, pieces)) is not None:
            if request.transport is None or request.transport.is_closing():
                break
            if piece:
                await response.write(piece)
        await response.write_eof()
        return response


def _server_context(host: str) -> ssl.SSLContext:
    now = datetime.now(UTC)
    authority = Authority.create("dvcr-node", now)
    return authority.issue("dvcr-node", [host], now, _LIFETIME, server=True, client=False).server_context()


def _batch(pieces: Iterator[bytes]) -> bytes | None:
    """Some pieces at once: what there is, up to a bound; None at the end."""
    batch = bytearray()
    for piece in pieces:
        if not piece:
            return bytes(batch)
        batch += piece
        if len(batch) >= 2**16:
            return bytes(batch)
    return bytes(batch) or None


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "").lower() in ("true", "1")
