"""An HTTP server for one file, that breaks on command."""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE_BYTES = 64 * 1024


@dataclass
class FileServer:
    """What it serves, and how badly. All may be changed while it runs."""

    content: bytes
    url: str = ""
    ranges: bool = True
    etag: str = '"v1"'
    modified: str = ""
    length: bool = True
    """Tell Content-Length; without, the end of the connection is the end of the file."""
    chunked: bool = False
    statuses: list[int] = field(default_factory=list)
    """Answers to the next requests, before the file is served."""
    retry_after: str = ""
    """Header of these answers."""
    cuts: list[int] = field(default_factory=list)
    """How many bytes of the next bodies are sent before the connection is cut."""
    redirect: str = ""
    gate: threading.Event = field(default_factory=threading.Event)
    """Bodies stop after `gate_after` bytes until it is set."""
    gate_after: int | None = None
    extra: dict[str, str] = field(default_factory=dict)
    """Further headers of the answers with the file."""
    piece_bytes: int = PIECE_BYTES
    bytes_s: int | None = None
    """Speed of every connection."""
    max_bodies: int | None = None
    """Bodies that are sent at the same time; more are answered 503."""
    bodies: int = 0
    most_bodies: int = 0
    """Bodies that were sent at the same time."""
    requests: list[dict[str, str]] = field(default_factory=list)
    """Headers of every request, in order."""
    sent_bytes: int = 0

    @property
    def downloads(self) -> int:
        """Requests from the first byte on; tables of a qcow2 are asked for by their ranges, when they are late."""
        return sum("Range" not in headers for headers in self.requests)


@contextmanager
def serving(content: bytes, certificate: Path | None = None, key: Path | None = None) -> Iterator[FileServer]:
    """A server of `content` on a free port; with TLS where there is a certificate."""
    state = FileServer(content)
    state.gate.set()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.requests.append(dict(self.headers))
            if state.statuses:
                self.send_response(state.statuses.pop(0))
                if state.retry_after:
                    self.send_header("Retry-After", state.retry_after)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if state.redirect:
                self.send_response(302)
                self.send_header("Location", state.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            with lock:
                refused = state.max_bodies is not None and state.bodies >= state.max_bodies
                state.bodies += not refused
                state.most_bodies = max(state.most_bodies, state.bodies)
            if refused:
                self.send_error(503)
                return
            try:
                self._send(*self._range())
            finally:
                with lock:
                    state.bodies -= 1

        def _range(self) -> tuple[int, int | None]:
            """First byte, and the one after the last of a range that has an end."""
            wanted = self.headers.get("Range", "")
            condition = self.headers.get("If-Range")
            if not wanted or not state.ranges or (condition and condition not in (state.etag, state.modified)):
                return 0, None
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            return int(first), int(last) + 1 if last else None

        def _send(self, start: int, end: int | None) -> None:
            whole, body = len(state.content), state.content[start:end]
            if start >= whole > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{whole}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            partial = bool(start) or end is not None
            self.send_response(206 if partial else 200)
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{whole}")
            if state.ranges:
                self.send_header("Accept-Ranges", "bytes")
            for name, value in state.extra.items():
                self.send_header(name, value)
            if state.etag:
                self.send_header("ETag", state.etag)
            if state.modified:
                self.send_header("Last-Modified", state.modified)
            if state.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif state.length:
                self.send_header("Content-Length", str(len(body)))
            else:
                self.close_connection = True
            self.end_headers()
            cut = state.cuts.pop(0) if state.cuts else None
            self._body(body[:cut])
            if cut is not None:
                self.close_connection = True
            elif state.chunked:
                self.wfile.write(b"0\r\n\r\n")

        def _body(self, body: bytes) -> None:
            for at in range(0, len(body), state.piece_bytes):
                if state.gate_after is not None and at >= state.gate_after:
                    state.gate.wait(60)
                piece = body[at : at + state.piece_bytes]
                try:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if state.chunked else piece)
                except OSError:
                    self.close_connection = True
                    return
                state.sent_bytes += len(piece)
                if state.bytes_s is not None:
                    time.sleep(len(piece) / state.bytes_s)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class says so)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "http" if certificate is None else "https"
    state.url = f"{scheme}://localhost:{server.server_port}/disk.img"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.gate.set()
        server.shutdown()
        server.server_close()
