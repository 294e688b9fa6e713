"""A node's server of logs, as API servers ask it: over TLS, with a certificate that nobody knows."""

import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.certificates import self_signed


@dataclass
class Kubelet:
    """What it listens on, and the paths that it was asked for."""

    port: int = 0
    asked: list[str] = field(default_factory=list)

    def status(self) -> dict[str, object]:
        """The part of the Node's status by which API servers find it."""
        return {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
        }


@contextmanager
def answering(log: bytes) -> Iterator[Kubelet]:
    """A server that answers `log` to everything."""
    kubelet = Kubelet()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kubelet.asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(log)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, tempfile.TemporaryDirectory() as folder:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self_signed(Path(folder), "127.0.0.1"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        kubelet.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield kubelet
        finally:
            server.shutdown()
            thread.join()
