"""A chunk that was imported before is neither compressed nor sent, as long as the registry has it."""

import os

from converter.nbd.sink import ChunkSink
from dvcr.artifact.image import Chunk
from dvcr.descriptor import Descriptor
from importer.recall import RecalledChunks
from importer.staging import StagedChunks
from tests.support.memory_registry import MemoryRegistry

CHUNK = 4 * 2**20


class MemoryIndex:
    def __init__(self) -> None:
        self.known: dict[bytes, Descriptor] = {}

    def get(self, fingerprint: bytes) -> Descriptor | None:
        return self.known.get(fingerprint)

    def put(self, fingerprint: bytes, descriptor: Descriptor) -> None:
        self.known[fingerprint] = descriptor


def store(
    registry: MemoryRegistry, name: str, index: MemoryIndex, chunks: list[bytes]
) -> tuple[tuple[Chunk, ...], int]:
    """The chunks as they are stored, and the bytes that were sent for them."""
    repository = registry.client().repository(name)
    staged = StagedChunks(repository)
    with ChunkSink(len(chunks) * CHUNK, RecalledChunks(staged, repository, index)) as sink:
        for number, content in enumerate(chunks):
            sink.put_chunk(number, lambda content=content: content)  # type: ignore[misc]  # mypy knows no default here
        stored = sink.finish()
    staged.drain()
    staged.close()
    return stored, staged.sent_bytes


def test_known_chunks_are_mounted_and_the_others_sent() -> None:
    registry, index = MemoryRegistry(), MemoryIndex()
    old, new = [os.urandom(CHUNK) for _ in range(3)], os.urandom(CHUNK)
    first, sent = store(registry, "cvmi/a", index, [*old, bytes(CHUNK)])
    assert sent == 3 * CHUNK
    assert [chunk.index for chunk in first] == [0, 1, 2]
    second, sent = store(registry, "cvmi/b", index, [new, *old])
    assert sent == CHUNK
    assert [chunk.descriptor for chunk in second[1:]] == [chunk.descriptor for chunk in first]
    assert {str(chunk.descriptor.digest) for chunk in second} == set(registry.blobs["cvmi/b"])


def test_what_the_registry_lost_is_sent_again_and_no_session_stays() -> None:
    registry, index = MemoryRegistry(), MemoryIndex()
    data = [os.urandom(CHUNK)]
    first, _ = store(registry, "cvmi/a", index, data)
    registry.blobs.clear()
    again, sent = store(registry, "cvmi/a", index, data)
    assert again == first
    assert sent == CHUNK
    assert not registry.uploads
