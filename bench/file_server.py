"""A file over HTTP, with ranges; as fast as sendfile goes, or through a link of so many bytes a second.

    python -m bench.file_server FILE [BYTES_PER_S]

All connections share the link. Runs until it is killed.
"""

import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PACED_BYTES = 256 * 2**10
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Link:
    """Lets bytes pass at a rate."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, size_bytes: int) -> None:
        """Return when so many more bytes may have passed."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size_bytes / self._bytes_per_s
            free_at = self._free_at
        time.sleep(max(0.0, free_at - time.monotonic()))


def serve(file: Path, link: Link | None) -> None:
    """Serve the file on a free port, which is printed."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with file.open("rb") as body:
                size = os.fstat(body.fileno()).st_size
                asked = _RANGE.fullmatch(self.headers.get("Range", ""))
                start, end = (int(asked[1]), int(asked[2] or size - 1) + 1) if asked else (0, size)
                self.send_response(206 if asked else 200)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(end - start))
                self.send_header("ETag", '"bench"')
                if asked:
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
                self.end_headers()
                self.wfile.flush()
                step = PACED_BYTES if link else end - start
                while start < end:
                    count = min(step, end - start)
                    if link:
                        link.wait(count)
                    try:
                        self.connection.sendfile(body, start, count)
                    except ConnectionError:
                        self.close_connection = True
                        return
                    start += count

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class says so)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"listening on http://127.0.0.1:{server.server_port}/{file.name}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Link(float(sys.argv[2])) if len(sys.argv) > 2 else None)
