"""What a launcher is asked for over HTTP when its machine moves; the contract is `MigrationOrder`."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from aiohttp import web
from pydantic import ValidationError

from controller.certificates import KeyPair
from controller.launcher.migration import Arrival, Departure, RefusedError, Resume
from controller.launcher.spec import (
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    STATUS_PORT,
    MachineSpec,
    MigrationOrder,
    MigrationStatus,
)
from dvcr.errors import DvcrError, ResourceError

RESUME_PATH = "/migration/resume"
_RESUME_TIMEOUT_S = 15.0


class Migrations:
    """The two ends of a launcher's machine, which it has once QEMU runs."""

    def __init__(self, present: Callable[[], MachineSpec | None]) -> None:
        """`present` gives the machine's specification as it is now, None while there is no machine."""
        self._present = present
        self.departure: Departure | None = None
        self.arrival: Arrival | None = None

    def add_routes(self, app: web.Application) -> None:
        """Have the application answer."""
        app.router.add_get("/machine", self._show)
        app.router.add_put("/migration", _answering(self._start))
        app.router.add_delete("/migration", _answering(self._cancel))
        app.router.add_post("/migration/rollback", _answering(self._rollback))
        app.router.add_post(RESUME_PATH, _answering(self._resume))

    @property
    def status(self) -> MigrationStatus | None:
        """Of the latest attempt to leave."""
        return self.departure.status if self.departure is not None else None

    async def close(self) -> None:
        """End the work on both."""
        for end in (self.departure, self.arrival):
            if end is not None:
                await end.close()

    async def _show(self, _: web.Request) -> web.Response:
        spec = self._present()
        if spec is None:
            return web.Response(status=503, text="QEMU does not run yet")
        return web.json_response(text=spec.model_dump_json())

    async def _start(self, request: web.Request) -> None:
        try:
            order = MigrationOrder.model_validate_json(await request.read())
        except ValidationError as exc:
            raise web.HTTPBadRequest(text=str(exc)) from exc
        self._leaving().start(order)

    async def _cancel(self, _: web.Request) -> None:
        await self._leaving().cancel()

    async def _rollback(self, _: web.Request) -> None:
        await self._leaving().rollback()

    async def _resume(self, _: web.Request) -> None:
        if self.arrival is None:
            raise ResourceError("this launcher takes no machine in", reason="NotIncoming")
        await self.arrival.resume()

    def _leaving(self) -> Departure:
        if self.departure is None:
            raise ResourceError("QEMU does not run yet", reason="NotRunning", retryable=True)
        return self.departure


def resume_at(credentials: Path, identity: str) -> Resume:
    """Asks the launcher at an address to run the machine, with the certificate that is in the folder by then."""

    async def resume(address: str, told: Callable[[], None]) -> None:
        try:
            pair = KeyPair((credentials / CERTIFICATE_FILE).read_bytes(), (credentials / KEY_FILE).read_bytes())
            tls = pair.client_context((credentials / AUTHORITY_FILE).read_bytes())
        except (OSError, ValueError) as exc:
            # The files are replaced one after the other.
            raise ResourceError(f"cannot use the certificate in {credentials}: {exc}", retryable=True) from exc
        host = f"[{address}]" if ":" in address else address
        timeout = aiohttp.ClientTimeout(total=_RESUME_TIMEOUT_S)

        async def connected(*_: object) -> None:
            told()

        tracing = aiohttp.TraceConfig()
        tracing.on_connection_create_end.append(connected)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trace_configs=[tracing]) as session,
                session.post(f"https://{host}:{STATUS_PORT}{RESUME_PATH}", ssl=tls, server_hostname=identity) as answer,
            ):
                status, text = answer.status, await answer.text()
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise ResourceError(f"the launcher at {address} does not answer: {exc}", retryable=True) from exc
        if status == web.HTTPConflict.status_code:
            raise RefusedError(f"the launcher at {address} refused: {text}")
        if status >= 300:
            raise ResourceError(f"the launcher at {address} cannot run the machine: {text}", retryable=True)

    return resume


def _answering(action: Callable[[web.Request], Awaitable[None]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        try:
            await action(request)
        except DvcrError as exc:
            # 409 is for good.
            status = 503 if exc.retryable else web.HTTPConflict.status_code
            return web.Response(status=status, text=exc.message)
        return web.Response()

    return handle
