"""The machine API's server, beside the controller's loops; every replica serves, also one that does not lead."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

import structlog
from aiohttp import web

from controller.consoles.api import build_app
from controller.consoles.front_proxy import FrontProxy
from controller.consoles.registration import register, server_name
from controller.machines.authority import MachineAuthority
from controller.runtime.port import ClusterPort
from dvcr.config import ControllerSettings
from dvcr.errors import DvcrError

RENEW_S = 60.0
RETRY_S = 5.0
STOP_TIMEOUT_S = 10

Result = TypeVar("Result")
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Trust:
    """Whom the server believes, what it shows, and by what authority."""

    front_proxy: FrontProxy
    context: ssl.SSLContext
    authority: bytes


class MachineApiService:
    """Serves on a thread of its own while it is entered as a context.

    What it trusts and the certificate that it shows are made anew every minute. Where the cluster cannot be reached, or
    has no front proxy, it is tried again and logged: the controller's other work does not depend on it.
    """

    def __init__(self, cluster: ClusterPort, authority: MachineAuthority, settings: ControllerSettings) -> None:
        self._cluster = cluster
        self._authority = authority
        self._namespace = settings.namespace
        self._settings = settings.machine_api
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="machine-api", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """End every console and the server."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        trust = await self._trusted()
        if trust is None:
            return
        self._trust = trust
        app = build_app(self._cluster, self._authority.client_context, lambda: self._trust.front_proxy)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        # A listening socket keeps its context: each handshake takes the newest one.
        listening = self._trust.context
        listening.sni_callback = self._take_newest
        try:
            await web.TCPSite(runner, self._settings.host, self._settings.port, ssl_context=listening).start()
            port = int(runner.addresses[0][1])
            registered = False
            while not self._stopped.is_set():
                registered = await self._attempt(self._register, port) or registered
                await self._pause(RENEW_S if registered else RETRY_S)
                if (trust := await self._attempt(self._make_trust)) is not None:
                    self._trust = trust
        except OSError as exc:
            where = f"controller.machine_api.host {self._settings.host}, port {self._settings.port}"
            log.error("the machine API cannot listen", where=where, why=exc.strerror)  # noqa: TRY400 (no bug)
        finally:
            await runner.cleanup()

    async def _trusted(self) -> _Trust | None:
        while not self._stopped.is_set():
            trust = await self._attempt(self._make_trust)
            if trust is not None:
                return trust
            await self._pause(RETRY_S)
        return None

    def _make_trust(self) -> _Trust:
        front_proxy = FrontProxy.read(self._cluster)
        pair, authority = self._authority.serve(server_name(self._namespace, self._settings.service))
        context = pair.server_context()
        front_proxy.trust(context)
        return _Trust(front_proxy, context, authority)

    def _register(self, port: int) -> bool:
        where = self._settings
        register(self._cluster, self._namespace, where.service, where.external_name, port, self._trust.authority)
        return True

    async def _attempt(self, work: Callable[..., Result], *arguments: object) -> Result | None:
        try:
            return await asyncio.to_thread(work, *arguments)
        except DvcrError as exc:
            log.warning("the machine API has to wait", why=exc.message)
            return None

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def _take_newest(self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _old: ssl.SSLContext) -> None:
        connection.context = self._trust.context
