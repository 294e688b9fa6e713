"""`/healthz`, `/readyz` and `/metrics` of processes that serve nothing else over HTTP: worker and controller."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from prometheus_client import generate_latest

from dvcr.config import MonitoringSettings
from dvcr.errors import ConfigError

_TIMEOUT_S = 10


class Monitoring:
    """Serves on a thread of its own while it is entered as a context; nothing where the settings name no port.

    `/readyz` is 503 unless `ready`, asked each time, tells that the process is; `/metrics` is what the process has in
    prometheus_client's own registry. Raises ConfigError where it cannot listen.
    """

    def __init__(self, settings: MonitoringSettings, ready: Callable[[], bool]) -> None:
        self._settings = settings
        self._ready = ready
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        host, port = self._settings.host, self._settings.port
        if port is None:
            return self
        try:
            self._server = ThreadingHTTPServer((host, port), self._handler())
        except OSError as exc:
            message = f"cannot listen on {host}:{port} (monitoring.host, monitoring.port): {exc.strerror}"
            raise ConfigError(message) from exc
        threading.Thread(target=self._server.serve_forever, name="monitoring", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def _answer(self, path: str) -> tuple[int, bytes]:
        if path == "/healthz":
            return 200, b"ok\n"
        if path == "/readyz":
            return (200, b"ok\n") if self._ready() else (503, b"not ready yet\n")
        if path == "/metrics":
            return 200, generate_latest()
        return 404, b"not found\n"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT_S

            def do_GET(self) -> None:
                status, body = answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                """Probes come every few seconds."""

        return Handler
