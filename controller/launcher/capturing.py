"""`dvcr-launcher capture SPEC`: the process of a capture's pod; tells how far it is, and leaves a CaptureEnd."""

import asyncio
from pathlib import Path

import structlog
from aiohttp import web
from pydantic import ValidationError

from controller.launcher.capture import capture
from controller.launcher.spec import STATUS_PORT, CaptureEnd, CaptureSpec, CaptureStatus
from controller.launcher.status import serving
from dvcr.artifact.cache import ChunkCache
from dvcr.client.registry import RegistryClient
from dvcr.config import Settings, load_settings
from dvcr.errors import ConfigError, DvcrError
from dvcr.logging import configure_logging

log = structlog.get_logger(__name__)


def run_capture(spec: str, root: Path, address: str) -> CaptureEnd:
    """Make the image that `spec` describes; never raises."""
    try:
        settings = load_settings()
        configure_logging(settings.log.level, settings.log.style)
        try:
            parsed = CaptureSpec.model_validate_json(spec)
        except ValidationError as exc:
            raise ConfigError(f"wrong specification of a capture: {exc}") from exc
        asyncio.run(_capture(parsed, settings, root, address))
    except DvcrError as exc:
        log.error("the disk cannot be captured", reason=exc.reason, why=exc.message)  # noqa: TRY400 (no bug)
        return CaptureEnd(reason=exc.reason, message=exc.message, retryable=exc.retryable)
    except Exception as exc:
        log.exception("the capture failed")
        return CaptureEnd(reason=DvcrError.default_reason, message=f"internal error: {exc!r}")
    return CaptureEnd()


async def _capture(spec: CaptureSpec, settings: Settings, root: Path, address: str) -> None:
    done_bytes = 0

    def on_progress(count: int) -> None:
        nonlocal done_bytes
        done_bytes = count

    async def status(_: web.Request) -> web.Response:
        percent = min(99, 100 * done_bytes // max(1, spec.disk.size_bytes))
        return web.json_response(text=CaptureStatus(percent=percent).model_dump_json())

    app = web.Application()
    app.router.add_get("/status", status)
    registry = RegistryClient.from_settings(settings.client)
    cache = ChunkCache(settings.launcher.cache_dir / "chunks", settings.launcher.cache_size_bytes)
    async with serving(app, address, STATUS_PORT):
        await asyncio.to_thread(capture, spec, root, registry, cache, on_progress)
