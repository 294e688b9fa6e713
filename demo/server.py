"""A small HTTP file server with Range support: where the demo's image comes from."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve the files in `folder` on a free loopback port; gives the URL without a slash at its end."""

    class Handler(_FileHandler):
        root = folder

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="file-server", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _FileHandler(BaseHTTPRequestHandler):
    """GET and HEAD of the files of one folder, whole or one range (RFC 9110, section 14)."""

    root: ClassVar[Path]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.root / Path(self.path.lstrip("/")).name
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        size = path.stat().st_size
        etag = f'"{path.stat().st_mtime_ns:x}-{size:x}"'
        first, last, status = 0, size - 1, HTTPStatus.OK
        if self.headers.get("If-Range", etag) == etag and "Range" in self.headers:
            start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            if start.isdecimal() and int(start) < size:
                first, status = int(start), HTTPStatus.PARTIAL_CONTENT
                last = min(int(end), last) if end.isdecimal() else last
            else:
                self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", etag)
        if status == HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if with_body:
            with path.open("rb") as file:
                offset, remaining = first, last - first + 1
                while remaining and (sent := os.sendfile(self.connection.fileno(), file.fileno(), offset, remaining)):
                    offset, remaining = offset + sent, remaining - sent

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the base class gives it
        """Say nothing: the demo's screen belongs to the demo."""
