"""Request ids and the access log, and every request in the metrics."""

import random
import re
import time

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from dvcr.http.authentication import USER
from dvcr.http.metrics import Metrics

log = structlog.get_logger("dvcr.http.access")

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_REQUEST_ID = web.RequestKey("request_id", str)
_UPLOAD = "/v2/{name}/blobs/uploads"


class Observer:
    """Counts and logs the requests of one application."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    @web.middleware
    async def observe(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give the request an id (its own X-Request-ID if it is sane), count it and log it."""
        begin = time.monotonic()
        request_id = request.headers.get("X-Request-ID", "")
        if not _SANE_ID.fullmatch(request_id):
            request_id = f"{random.getrandbits(64):016x}"  # a name, no secret
        request[_REQUEST_ID] = request_id
        status, sent_bytes = 499, 0  # as proxies log it: the client went away
        resource = request.match_info.route.resource
        route = resource.canonical if resource else "other"
        uploads = route.startswith(_UPLOAD) and request.method in ("POST", "PATCH", "PUT")
        metrics = self._metrics
        metrics.requests_under_way.inc()
        if uploads:
            metrics.uploads_under_way.inc()
        try:
            structlog.contextvars.bind_contextvars(request_id=request_id)  # until the connection's next request
            response = await handler(request)
            status = response.status
            if request.method != "HEAD":
                sent_bytes = response.content_length or 0
            return response
        finally:
            seconds = time.monotonic() - begin
            received_bytes = request.content.total_bytes
            metrics.requests_under_way.dec()
            if uploads:
                metrics.uploads_under_way.dec()
            metrics.answered(request.method, route, status, seconds)
            if received_bytes:
                metrics.received_bytes.inc(received_bytes)
            if sent_bytes:
                metrics.sent_bytes.inc(sent_bytes)
            log.info(
                "request",
                request_id=request_id,
                method=request.method,
                path=request.raw_path,
                status=status,
                remote=request.remote,
                user=request.get(USER, ""),
                received_bytes=received_bytes,
                sent_bytes=sent_bytes,
                duration_ms=round(seconds * 1000, 1),
            )

    async def add_request_id(self, request: web.Request, response: web.StreamResponse) -> None:
        """Name the request in its answer, so that a user can be found in the log."""
        response.headers["X-Request-ID"] = request.get(_REQUEST_ID, "")
