"""A registry on a real port that slows down and lies on command, for whoever reads images from it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from controller.launcher.spec import ImageReference
from dvcr.artifact.chunk import encode_chunk
from dvcr.artifact.image import Chunk, DiskImage, ImageSource, chunk_size_bytes
from dvcr.artifact.store import publish
from dvcr.client.registry import RegistryClient
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

    def publish(self, repository: str, raw: Path, *, cdrom: bool = False) -> ImageReference:
        """Store the raw disk as an artifact."""
        return publish_disk(self.registry.client(), repository, raw, cdrom=cdrom)

    def spoil_blob(self, digest: str) -> None:
        """Flip the last bit of a blob."""
        for blobs in self.registry.blobs.values():
            if digest in blobs:
                blobs[digest] = blobs[digest][:-1] + bytes([blobs[digest][-1] ^ 1])

    def answer(self, request: requests.PreparedRequest) -> requests.Response:
        if "/blobs/" in str(request.url):
            time.sleep(self.blob_delay_s)
        return self.registry.send(request)


def publish_disk(registry: RegistryClient, repository: str, raw: Path, *, cdrom: bool = False) -> ImageReference:
    """Cut the raw disk into chunks and store it as an artifact."""
    size = raw.stat().st_size
    chunk_size = chunk_size_bytes(size)
    target = registry.repository(repository)
    chunks = []
    with raw.open("rb") as file:
        for index in range((size + chunk_size - 1) // chunk_size):
            encoded = encode_chunk(file.read(chunk_size))
            if encoded is not None:
                target.push_blob(encoded.descriptor.digest, encoded.data)
                chunks.append(Chunk(index, encoded.descriptor))
    image = DiskImage(size, chunk_size, tuple(chunks), cdrom, ImageSource("raw", size), datetime.now(UTC))
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
            self.end_headers()
            self.wfile.write(response.content)

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
