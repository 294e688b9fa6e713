import random
import threading
from typing import Any

import pytest
import requests

from dvcr.artifact.chunk import encode_chunk
from dvcr.descriptor import Descriptor
from dvcr.errors import RegistryError
from importer.staging import StagedChunks
from tests.support.memory_registry import Fault, MemoryRegistry, refusal
from tests.support.waiting import eventually

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
    staged.drain()
    staged.close()
    assert registry.count("PUT ") == 2
    assert staged.sent_bytes == len(chunk(b"one")[1]) + len(chunk(b"two")[1])


def test_chunks_are_used_again_and_again_until_they_are_published() -> None:
    registry = MemoryRegistry()
    staged = StagedChunks(registry.client().repository("cvmi/a"), hold_every_s=0.01)
    (descriptor, data), (recalled, _) = chunk(b"one"), chunk(b"two")
    staged.put(descriptor, data)
    staged.hold(recalled.digest)
    paths = [f"HEAD /v2/cvmi/a/blobs/{digest}" for digest in (descriptor.digest, recalled.digest)]
    eventually(lambda: min(map(registry.count, paths)) > 2, "both are asked for")
    staged.close()


def test_push_that_fails_is_raised_and_ends_the_others() -> None:
    registry = MemoryRegistry()
    registry.faults.append(Fault("PUT", "/uploads/", times=100, answer=refusal(403, "DENIED")))
    staged = StagedChunks(registry.client().repository("cvmi/a"))
    staged.put(*chunk(b"one"))
    with pytest.raises(RegistryError):
        staged.drain()
    with pytest.raises(RegistryError):
        staged.put(*chunk(b"two"))
    staged.close()
    assert registry.blobs.get("cvmi/a", {}) == {}


def test_no_more_is_on_its_way_than_the_bound() -> None:
    gate, arrived = threading.Event(), threading.Semaphore(0)

    class Gated(MemoryRegistry):
        def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
            if request.method == "POST":
                arrived.release()
            assert gate.wait(10)
            return super().send(request)

    staged = StagedChunks(Gated().client().repository("cvmi/a"))

    def put() -> None:
        for seed in range(10):
            encoded = encode_chunk(random.Random(seed).randbytes(CHUNK))
            assert encoded is not None
            staged.put(encoded.descriptor, encoded.data)

    putting = threading.Thread(target=put)
    putting.start()
    for _ in range(4):  # 16 MiB
        assert arrived.acquire(timeout=10)
    putting.join(0.1)
    assert putting.is_alive(), "the fifth waits"
    gate.set()
    putting.join(10)
    staged.drain()
    staged.close()
    assert staged.sent_bytes == 10 * CHUNK


def test_a_registry_that_knows_nothing_is_asked_less_often() -> None:
    registry = MemoryRegistry()
    repository = registry.client().repository("cvmi/a")
    chunks = [chunk(b"%d" % number) for number in range(40)]
    staged = StagedChunks(repository)
    for descriptor, data in chunks:
        staged.put(descriptor, data)
        staged.drain()
    assert registry.blobs["cvmi/a"] == {str(descriptor.digest): data for descriptor, data in chunks}
    assert registry.count("PUT ") == 8 + 4, "asked for each of eight, then for every eighth"

    again = StagedChunks(registry.client().repository("cvmi/b"))
    for descriptor, data in chunks:
        again.put(descriptor, data)
    again.drain()
    assert again.sent_bytes == 0
    staged.close()
    again.close()
