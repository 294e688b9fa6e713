"""Request ids, the access log and metrics."""

import re
import secrets
import time

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

log = structlog.get_logger("dvcr.http.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)


class Observer:
    """Counts and logs the requests of one application."""

    def __init__(self) -> None:
        self.metrics = CollectorRegistry()
        self._requests = Counter(
            "dvcr_registry_requests", "Requests answered.", ["method", "route", "status"], registry=self.metrics
        )
        self._seconds = Histogram(
            "dvcr_registry_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ["method", "route"],
            registry=self.metrics,
            buckets=_SECONDS,
        )

    @web.middleware
    async def observe(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give the request an id (its own X-Request-ID if it is sane), count it and log it."""
        begin = time.monotonic()
        request_id = request.headers.get("X-Request-ID", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(8)
        request["request_id"] = request_id
        status = 499  # as proxies log it: the client went away
        try:
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                response = await handler(request)
            status = response.status
            return response
        finally:
            seconds = time.monotonic() - begin
            resource = request.match_info.route.resource
            route = resource.canonical if resource else "other"
            self._requests.labels(request.method, route, status).inc()
            self._seconds.labels(request.method, route).observe(seconds)
            log.info(
                "request",
                request_id=request_id,
                method=request.method,
                path=request.path_qs,
                status=status,
                remote=request.remote,
                received_bytes=request.content.total_bytes,
                duration_ms=round(seconds * 1000, 1),
            )

    async def add_request_id(self, request: web.Request, response: web.StreamResponse) -> None:
        """Name the request in its answer, so that a user can be found in the log."""
        response.headers["X-Request-ID"] = request.get("request_id", "")

    async def show(self, _request: web.Request) -> web.Response:
        """GET /metrics."""
        return web.Response(body=generate_latest(self.metrics), headers={"Content-Type": "text/plain; version=0.0.4"})
