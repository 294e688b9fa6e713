"""A proxy in front of a cluster's API server that writes down what is asked, and spoils what the test wants spoilt.

It speaks plain HTTP to its clients, who name themselves with their tokens.
"""

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from tests.support.cluster import ClusterProcess

_PASSED_ON = ("authorization", "accept", "content-type", "user-agent")


@dataclass(frozen=True)
class Asked:
    """A request, and when it came, by the monotonic clock."""

    method: str
    path: str
    query: dict[str, str]
    at_s: float

    @property
    def is_watch(self) -> bool:
        return "watch" in self.query

    @property
    def is_write(self) -> bool:
        return self.method != "GET"


@dataclass(frozen=True)
class Answer:
    """The proxy answers in the server's place."""

    status: int
    body: dict[str, Any] | bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """The server does what it is asked to; the answer is cut after so many bytes of its body."""

    after_bytes: int


@dataclass(frozen=True)
class Late:
    """The server is asked only after that time; None: there is no answer, as long as the proxy runs."""

    by_s: float | None


Fault = Answer | Cut | Late
Spoil = Callable[[Asked], Fault | None]


class ApiProxy:
    """Listens as long as `api_proxy` is entered."""

    def __init__(self, cluster: ClusterProcess) -> None:
        self.asked: list[Asked] = []
        self.spoil: Spoil = lambda _: None
        """What is wrong with the answer to a request."""
        self.on_done: Callable[[Asked], None] = lambda _: None
        """Called when the server has answered, before the client knows."""
        self.closing = threading.Event()
        self._cluster = cluster
        self._tls = ssl.create_default_context(cafile=str(cluster.ca_file))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def kubeconfig(self) -> Path:
        """One that leads here, for the administrator."""
        config = yaml.safe_load(self._cluster.kubeconfig.read_text())
        config["clusters"][0]["cluster"] = {"server": self.url}
        path = self._cluster.root / f"kubeconfig-{self.server.server_port}"
        path.write_text(yaml.safe_dump(config))
        return path

    def forward(self, method: str, target: str, headers: dict[str, str], body: bytes) -> http.client.HTTPResponse:
        """Ask the server."""
        connection = http.client.HTTPSConnection("127.0.0.1", self._cluster.port, timeout=400, context=self._tls)
        connection.request(method, target, body or None, headers)
        return connection.getresponse()


@contextmanager
def api_proxy(cluster: ClusterProcess) -> Iterator[ApiProxy]:
    """A running proxy."""
    proxy = ApiProxy(cluster)
    thread = threading.Thread(target=proxy.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()


def _handler(proxy: ApiProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = urlsplit(self.path)
            asked = Asked(self.command, parts.path, dict(parse_qsl(parts.query)), time.monotonic())
            proxy.asked.append(asked)
            fault = proxy.spoil(asked)
            try:
                if isinstance(fault, Answer):
                    self._answer(fault)
                elif not (isinstance(fault, Late) and proxy.closing.wait(fault.by_s)):
                    self._pass_on(asked, body, fault.after_bytes if isinstance(fault, Cut) else None)
            except OSError:
                self.close_connection = True  # either side has hung up

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 (the base class says so)

        def _answer(self, answer: Answer) -> None:
            content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode() + b"\n"
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def _pass_on(self, asked: Asked, body: bytes, left_bytes: int | None) -> None:
            headers = {name: value for name, value in self.headers.items() if name.lower() in _PASSED_ON}
            answer = proxy.forward(self.command, self.path, headers, body)
            proxy.on_done(asked)
            self.send_response(answer.status)
            for name in ("Content-Type", "Retry-After"):
                if value := answer.headers.get(name):
                    self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while data := answer.read1(2**16):
                if left_bytes is not None:
                    data, left_bytes = data[:left_bytes], left_bytes - len(data)
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n" if data else b"")
                self.wfile.flush()
                if left_bytes is not None and left_bytes <= 0:
                    break
            if left_bytes is not None:
                self.connection.shutdown(SHUT_RDWR)
                self.close_connection = True
                return
            self.wfile.write(b"0\r\n\r\n")

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                return  # a client that was killed

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class says so)
            pass

    return Handler
