"""What the cluster's API server calls in the controller; every replica serves, also one that does not lead."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from typing import Protocol, Self, TypeVar

import structlog
from aiohttp import web

from dvcr.errors import DvcrError

RENEW_S = 60.0
RETRY_S = 5.0
STOP_TIMEOUT_S = 10

Result = TypeVar("Result")
log = structlog.get_logger(__name__)


class Site(Protocol):
    """What is served, and where. Its methods may block and raise DvcrError; only `app` runs on the event loop."""

    @property
    def title(self) -> str:
        """What the log calls it."""
        ...

    @property
    def setting(self) -> str:
        """The section of the settings with `host` and `port`."""
        ...

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int:
        """0 picks a free one."""
        ...

    def renew(self) -> ssl.SSLContext:
        """Whom the server trusts and what certificate it shows, as of now."""
        ...

    def app(self) -> web.Application:
        """Asked for once, after `renew`."""
        ...

    def register(self, port: int) -> None:
        """Have the cluster call this server. Idempotent."""
        ...


class Service:
    """Serves a site on a thread of its own while it is entered as a context.

    What it trusts and the certificate that it shows are made anew every minute. Where the cluster cannot be reached it
    is tried again and logged: the controller's other work does not depend on it.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self.listening = threading.Event()
        """Set once it takes connections."""
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=site.title, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """End every connection and the server."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        listening = await self._first_context()
        if listening is None:
            return
        self._context = listening
        runner = web.AppRunner(self._site.app(), access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        # A listening socket keeps its context: each handshake takes the newest one.
        listening.sni_callback = self._take_newest
        try:
            await web.TCPSite(runner, self._site.host, self._site.port, ssl_context=listening).start()
            self.listening.set()
            port = int(runner.addresses[0][1])
            registered = False
            while not self._stopped.is_set():
                registered = await self._attempt(self._register, port) or registered
                await self._pause(RENEW_S if registered else RETRY_S)
                if (context := await self._attempt(self._site.renew)) is not None:
                    self._context = context
        except OSError as exc:
            where = f"{self._site.setting}.host {self._site.host}, port {self._site.port}"
            log.error("cannot listen", what=self._site.title, where=where, why=exc.strerror)  # noqa: TRY400 (no bug)
        finally:
            await runner.cleanup()

    async def _first_context(self) -> ssl.SSLContext | None:
        while not self._stopped.is_set():
            context = await self._attempt(self._site.renew)
            if context is not None:
                return context
            await self._pause(RETRY_S)
        return None

    def _register(self, port: int) -> bool:
        self._site.register(port)
        return True

    async def _attempt(self, work: Callable[..., Result], *arguments: object) -> Result | None:
        try:
            return await asyncio.to_thread(work, *arguments)
        except DvcrError as exc:
            log.warning("has to wait", what=self._site.title, why=exc.message)
            return None

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def _take_newest(self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _old: ssl.SSLContext) -> None:
        connection.context = self._context


def service_name(namespace: str, service: str) -> str:
    """The name that the API server expects in the certificate of what is behind a Service."""
    return f"{service}.{namespace}.svc"
