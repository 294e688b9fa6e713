from datetime import UTC, datetime

from dvcr.artifact.chunk import encode_chunk
from dvcr.artifact.image import Chunk, DiskImage, ImageSource
from dvcr.artifact.store import publish
from dvcr.descriptor import Descriptor
from importer.staging import StagedChunks
from tests.support.memory_registry import MemoryRegistry

CHUNK = 4 * 2**20


def chunk(text: bytes) -> tuple[Descriptor, bytes]:
    encoded = encode_chunk(text.ljust(CHUNK, b"."))
    assert encoded is not None
    return encoded.descriptor, encoded.data


def test_each_chunk_is_sent_once() -> None:
    registry = MemoryRegistry()
    staged = StagedChunks(registry.client().repository("cvmi/a"))
    staged.put(*chunk(b"one"))
    staged.put(*chunk(b"one"))
    staged.put(*chunk(b"two"))
    assert registry.count("PUT ") == 2
    assert staged.sent_bytes == len(chunk(b"one")[1]) + len(chunk(b"two")[1])


def test_discard_removes_what_was_put_but_not_what_an_image_needs() -> None:
    registry = MemoryRegistry()
    repository = registry.client().repository("cvmi/a")
    shared, own, mounted = chunk(b"shared"), chunk(b"own"), chunk(b"mounted")
    repository.push_blob(shared[0].digest, shared[1])
    image = DiskImage(CHUNK, CHUNK, (Chunk(0, shared[0]),), False, ImageSource("raw", CHUNK), datetime.now(UTC))
    publish(repository, image, ["latest"])
    before = dict(registry.blobs["cvmi/a"])
    registry.client().repository("cvmi/other").push_blob(mounted[0].digest, mounted[1])

    staged = StagedChunks(repository)
    for descriptor, data in (shared, own, mounted):
        staged.put(descriptor, data)
    assert len(registry.blobs["cvmi/a"]) == len(before) + 2
    staged.discard()
    assert registry.blobs["cvmi/a"] == before
    assert str(mounted[0].digest) in registry.blobs["cvmi/other"]
