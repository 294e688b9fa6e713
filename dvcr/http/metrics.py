"""What `/metrics` shows (Prometheus text format)."""

import os
from functools import cache

from aiohttp import web
from aiohttp.hdrs import METH_ALL
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from dvcr.registry.collect import CollectReport

# Where the meters of workers lie; prometheus_client looks at it when it is imported.
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)


class Metrics:
    """The meters of one application, shown together with those of the other workers that share its port."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "dvcr_registry_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "dvcr_registry_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ["method", "route"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.received_bytes = Counter("dvcr_registry_received_bytes", "Bytes of request bodies.", registry=registry)
        self.sent_bytes = Counter("dvcr_registry_sent_bytes", "Bytes of answers' bodies.", registry=registry)
        self.requests_under_way = Gauge(
            "dvcr_registry_requests_under_way",
            "Requests that are being answered.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.uploads_under_way = Gauge(
            "dvcr_registry_uploads_under_way",
            "Requests that are sending bytes of a blob.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.storage_seconds = Histogram(
            "dvcr_registry_storage_seconds",
            "Time of one call into the store, without the bodies of uploads and downloads.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._collections = Counter(
            "dvcr_registry_collections", "Runs of garbage collection.", ["result"], registry=registry
        )
        self._collection_seconds = Histogram(
            "dvcr_registry_collection_seconds", "Time of a run of garbage collection.", registry=registry
        )
        self._collected_at = Gauge(
            "dvcr_registry_collected_timestamp_seconds",
            "End of the last good run.",
            registry=registry,
            multiprocess_mode="max",
        )
        self._freed_bytes = Counter("dvcr_registry_freed_bytes", "Bytes of removed blobs.", registry=registry)
        self._freed_blobs = Counter("dvcr_registry_freed_blobs", "Blobs removed.", registry=registry)
        # To find a meter by its labels costs more than to count.
        self._meters = cache(
            lambda method, route, status: (
                self.requests.labels(method, route, status),
                self.request_seconds.labels(method, route),
            )
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request came to its end."""
        method = method if method in METH_ALL else "other"  # anybody may invent one, and each is kept for ever
        requests, request_seconds = self._meters(method, route, status)
        requests.inc()
        request_seconds.observe(seconds)

    def collected(self, report: CollectReport, seconds: float) -> None:
        """A run of garbage collection came to its end."""
        self._collections.labels("done").inc()
        self._collection_seconds.observe(seconds)
        self._collected_at.set_to_current_time()
        self._freed_bytes.inc(report.bytes)
        self._freed_blobs.inc(report.blobs)

    def collection_failed(self) -> None:
        """A run of garbage collection failed."""
        self._collections.labels("failed").inc()

    async def show(self, _request: web.Request) -> web.Response:
        """GET /metrics."""
        registry = self._registry
        if MULTIPROCESS_DIR in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return web.Response(body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4"})
