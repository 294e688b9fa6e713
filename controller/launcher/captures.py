"""Images made of the disks of a running machine, on the controller's word.

What is known of a capture is lost with the launcher: whoever wants it asks for it again, and finds the chunks that were
pushed in the registry.
"""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import web
from pydantic import ValidationError

from controller.launcher.agent import GuestAgent
from controller.launcher.capture import make_image
from controller.launcher.machine import Machine
from controller.launcher.snapshot import snapshot
from controller.launcher.spec import CREDENTIALS_HEADER, CaptureSpec, WorkEnd, WorkStatus
from dvcr.artifact.cache import ChunkCache
from dvcr.client.credentials import Credentials
from dvcr.client.registry import RegistryClient
from dvcr.config import Settings
from dvcr.errors import DvcrError, ResourceError

log = structlog.get_logger(__name__)


@dataclass
class _Capture:
    spec: CaptureSpec
    credentials: Credentials | None
    percent: int = 0
    end: WorkEnd | None = None
    cancelled: bool = False
    task: "asyncio.Task[None] | None" = None


class MachineCaptures:
    """The captures of one machine; one runs at a time, the others wait."""

    def __init__(self, machine: Machine, agent: GuestAgent, folder: Path, settings: Settings) -> None:
        """`folder`, private to the machine, is made where it is missing, and takes what the guest overwrites."""
        self._machine = machine
        self._agent = agent
        self._folder = folder
        self._settings = settings
        self._captures: dict[str, _Capture] = {}
        self._turn = asyncio.Lock()

    def want(self, uid: str, spec: CaptureSpec, credentials: Credentials | None = None) -> WorkStatus:
        """Begin the capture if it is not known; how far it is.

        The registry is shown the `credentials` that came last; without any, those of the settings.
        """
        capture = self._captures.get(uid)
        if capture is None:
            capture = self._captures[uid] = _Capture(spec, credentials)
            capture.task = asyncio.create_task(self._run(capture))
        capture.credentials = credentials or capture.credentials
        return self._status(capture)

    async def cancel(self, uid: str) -> None:
        """Have the capture end and forget it; returns when it has. Idempotent."""
        capture = self._captures.pop(uid, None)
        if capture is not None and capture.task is not None:
            capture.cancelled = True
            await capture.task

    async def close(self) -> None:
        """End all captures."""
        for uid in list(self._captures):
            await self.cancel(uid)

    def _status(self, capture: _Capture) -> WorkStatus:
        return WorkStatus(percent=capture.percent, end=capture.end)

    @property
    def busy(self) -> bool:
        """Whether a disk is being captured, or about to be."""
        return any(capture.end is None for capture in self._captures.values())

    async def _run(self, capture: _Capture) -> None:
        try:
            async with self._turn:
                await self._capture(capture)
        except DvcrError as exc:
            log.warning("a disk cannot be captured", reason=exc.reason, why=exc.message)
            capture.end = WorkEnd(reason=exc.reason, message=exc.message, retryable=exc.retryable)
        except Exception as exc:
            log.exception("a capture failed")
            capture.end = WorkEnd(reason=DvcrError.default_reason, message=f"internal error: {exc!r}")
        else:
            capture.end = WorkEnd()

    async def _capture(self, capture: _Capture) -> None:
        spec = capture.spec
        if self._machine.held:
            raise ResourceError("the machine moves to another node", reason="MachineMoves", retryable=True)
        disk = next((one for one in self._machine.disks if one.name == spec.disk.name), None)
        if disk is None or disk.drive.path is None:
            raise ResourceError(f"the machine has no disk {spec.disk.name!r}", reason="DiskNotFound", retryable=True)
        # Asked each time: there may be newer ones.
        given = (lambda: capture.credentials or Credentials()) if capture.credentials else None
        registry = RegistryClient.from_settings(self._settings.client, given)
        launcher = self._settings.launcher
        cache = ChunkCache(launcher.cache_dir / "chunks", launcher.cache_size_bytes)

        def on_progress(done_bytes: int) -> None:
            if capture.cancelled:
                raise ResourceError("the capture was cancelled", reason="CaptureCancelled", retryable=True)
            capture.percent = min(99, 100 * done_bytes // max(1, spec.disk.size_bytes))

        on_progress(0)
        copies = self._machine.copies
        async with (
            copies.held(),
            snapshot(
                self._machine.monitor, copies.server, self._agent, disk, self._folder, launcher.snapshot_bytes
            ) as content,
        ):
            await asyncio.to_thread(make_image, spec, content, registry, cache, on_progress)


def add_capture_routes(app: web.Application, captures: Callable[[], MachineCaptures | None]) -> None:
    """`PUT` (again and again, with CREDENTIALS_HEADER) and `DELETE /captures/<uid>`; 503 until the machine runs."""

    def running() -> MachineCaptures:
        found = captures()
        if found is None:
            raise web.HTTPServiceUnavailable(text="the machine does not run yet")
        return found

    async def put(request: web.Request) -> web.Response:
        try:
            spec = CaptureSpec.model_validate_json(await request.read())
        except ValidationError as exc:
            raise web.HTTPBadRequest(text=f"wrong specification of a capture: {exc}") from exc
        status = running().want(request.match_info["uid"], spec, _credentials(request))
        return web.json_response(text=status.model_dump_json())

    async def delete(request: web.Request) -> web.Response:
        await running().cancel(request.match_info["uid"])
        return web.Response(status=204)

    app.router.add_put("/captures/{uid}", put)
    app.router.add_delete("/captures/{uid}", delete)


def _credentials(request: web.Request) -> Credentials | None:
    text = request.headers.get(CREDENTIALS_HEADER)
    if text is None:
        return None
    try:
        return Credentials.read(base64.urlsafe_b64decode(text))
    except ValueError:
        # Its own words may quote what is secret.
        raise web.HTTPBadRequest(text=f"{CREDENTIALS_HEADER} holds no credentials") from None
