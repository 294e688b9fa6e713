"""A registry on a real port that slows down and lies on command, for whoever reads images from it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from controller.launcher.spec import ImageReference
from converter.convert import convert
from converter.inspect import ImageFormat, ImageInfo, inspect
from dvcr.artifact.image import DiskImage, ImageSource
from dvcr.artifact.store import publish
from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.descriptor import Descriptor
from tests.support.images import MemorySource
from tests.support.memory_registry import MemoryRegistry


class ImageServer:
    """A MemoryRegistry over HTTP."""

    def __init__(self) -> None:
        self.registry = MemoryRegistry()
        self.blob_delay_s = 0.0
        self.url = ""

    @property
    def settings(self) -> dict[str, str]:
        """Environment for a process that is to read from here."""
        return {"DVCR__CLIENT__URL": self.url}

    def publish(self, repository: str, disk: Path) -> ImageReference:
        """Store the raw or qcow2 disk as an artifact."""
        return publish_disk(self.registry.client(), repository, disk)

    def spoil_blob(self, digest: str) -> None:
        """Flip the last bit of a blob."""
        for blobs in self.registry.blobs.values():
            if digest in blobs:
                blobs[digest] = blobs[digest][:-1] + bytes([blobs[digest][-1] ^ 1])

    def answer(self, request: requests.PreparedRequest) -> requests.Response:
        if "/blobs/" in str(request.url):
            time.sleep(self.blob_delay_s)
        return self.registry.send(request)


class _Pushing:
    """A ChunkStore over a repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        self._repository.push_blob(descriptor.digest, data)


def publish_disk(registry: RegistryClient, repository: str, disk: Path) -> ImageReference:
    """Convert the raw or qcow2 disk and store it as an artifact."""
    source = MemorySource(disk.read_bytes())
    info = ImageInfo(ImageFormat.RAW, len(source.data), False)
    if source.data.startswith(b"QFI\xfb"):
        info = inspect(source, max_virtual_size_bytes=2**40)
    target = registry.repository(repository)
    done = convert(source, info, _Pushing(target), on_progress=lambda _: None)
    origin = ImageSource(info.format, len(source.data))
    image = DiskImage(
        done.virtual_size_bytes, done.chunk_size_bytes, done.chunks, info.cdrom, origin, datetime.now(UTC)
    )
    return ImageReference(repository=repository, digest=str(publish(target, image, ["latest"])))


@contextmanager
def serving_images() -> Iterator[ImageServer]:
    """An ImageServer on a free port."""
    images = ImageServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            request = requests.Request("GET", f"{images.url}{self.path}", dict(self.headers)).prepare()
            response = images.answer(request)
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                self.send_header(name, value)
            chunked = "Content-Length" not in response.headers
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with suppress(ConnectionError):  # who reads may have had enough
                for piece in response.iter_content(2**20):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                if chunked:
                    self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class says so)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    images.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield images
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def image_server() -> Iterator[ImageServer]:
    with serving_images() as images:
        yield images
