"""What `/metrics` shows (Prometheus text format), and the access log. Neither tells a token."""

import re
import secrets
import time

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from dvcr.digest import Digest

log = structlog.get_logger("uploader.access")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Observer:
    """Counts and logs the requests of one application."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "dvcr_uploader_requests", "Requests answered.", ["method", "status"], registry=registry
        )
        self._received_bytes = Counter("dvcr_uploader_received_bytes", "Bytes of bodies.", registry=registry)
        self.uploads_under_way = Gauge(
            "dvcr_uploader_uploads_under_way", "Requests that are sending bytes of a file.", registry=registry
        )
        self.uploads = Counter(
            "dvcr_uploader_uploads", "Requests that sent bytes of a file, by their end.", ["result"], registry=registry
        )

    async def show(self, _request: web.Request) -> web.Response:
        """GET /metrics."""
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": "text/plain; version=0.0.4"})

    @web.middleware
    async def observe(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give the request an id (its own X-Request-ID if it is sane), count it and log it."""
        begin = time.monotonic()
        request_id = request.headers.get("X-Request-ID", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(8)
        status = 499  # as proxies log it: the client went away
        try:
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                response = await handler(request)
            status = response.status
            response.headers["X-Request-ID"] = request_id
            return response
        finally:
            received_bytes = request.content.total_bytes
            self._requests.labels(request.method, status).inc()
            self._received_bytes.inc(received_bytes)
            log.info(
                "request",
                request_id=request_id,
                method=request.method,
                upload=shown(request.match_info.get("token", "")),
                status=status,
                remote=request.remote,
                received_bytes=received_bytes,
                duration_ms=round((time.monotonic() - begin) * 1000, 1),
            )


def shown(token: str) -> str:
    """What logs call an upload: enough to find its lines, nothing to upload with."""
    return Digest.of(token.encode()).hex[:12] if token else ""
