"""Processes of pods that work on a disk without a machine: `dvcr-launcher capture SPEC` and `dvcr-launcher fill SPEC`.

They tell how far they are, and leave a WorkEnd. Whoever starts them again goes on.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog
from aiohttp import web
from pydantic import ValidationError

from controller.launcher.capture import capture
from controller.launcher.fill import fill
from controller.launcher.settings import launcher_settings
from controller.launcher.spec import STATUS_PORT, CaptureSpec, FillSpec, WorkEnd, WorkStatus
from controller.launcher.status import serving
from dvcr.artifact.cache import ChunkCache
from dvcr.client.registry import RegistryClient
from dvcr.config import Settings
from dvcr.errors import ConfigError, DvcrError
from dvcr.logging import configure_logging

log = structlog.get_logger(__name__)

Tell = Callable[[WorkStatus], None]


def run_work(work: str, spec: str, root: Path, address: str) -> WorkEnd:
    """Do what `spec` describes, `work` being `capture` or `fill`; never raises."""
    try:
        settings = launcher_settings(root)
        configure_logging(settings.log.level, settings.log.style)
        asyncio.run(_work(work, spec, settings, root, address))
    except DvcrError as exc:
        log.error("the work on the disk failed", work=work, reason=exc.reason, why=exc.message)  # noqa: TRY400 (no bug)
        return WorkEnd(reason=exc.reason, message=exc.message, retryable=exc.retryable)
    except asyncio.CancelledError:
        return WorkEnd(reason="Interrupted", message="it was stopped", retryable=True)
    except Exception as exc:
        log.exception("the work on the disk failed", work=work)
        return WorkEnd(reason=DvcrError.default_reason, message=f"internal error: {exc!r}")
    return WorkEnd()


async def _work(work: str, spec: str, settings: Settings, root: Path, address: str) -> None:
    told = WorkStatus()

    def tell(status: WorkStatus) -> None:
        nonlocal told
        told = status

    async def status(_: web.Request) -> web.Response:
        return web.json_response(text=told.model_dump_json())

    app = web.Application()
    app.router.add_get("/status", status)
    try:
        if work == "capture":
            todo = _capture(CaptureSpec.model_validate_json(spec), settings, root, tell)
        else:
            todo = fill(FillSpec.model_validate_json(spec).disk, settings, root, tell)
    except ValidationError as exc:
        raise ConfigError(f"wrong specification: {exc}") from exc
    async with serving(app, address, STATUS_PORT):
        await todo


async def _capture(spec: CaptureSpec, settings: Settings, root: Path, tell: Tell) -> None:
    def on_progress(done_bytes: int) -> None:
        tell(WorkStatus(percent=min(99, 100 * done_bytes // max(1, spec.disk.size_bytes))))

    registry = RegistryClient.from_settings(settings.client)
    cache = ChunkCache(settings.launcher.cache_dir / "chunks", settings.launcher.cache_size_bytes)
    await asyncio.to_thread(capture, spec, root, registry, cache, on_progress)
