"""Copies from a registry that sends other blobs than its manifests say."""

import json

import pytest

from dvcr.client.copy import copy, plan
from dvcr.client.repository import Repository
from dvcr.descriptor import IMAGE_MANIFEST, OCTET_STREAM, Descriptor
from dvcr.digest import Digest
from dvcr.errors import DvcrError, IntegrityError, RegistryError
from tests.support.memory_registry import Answer, Fault, MemoryRegistry, Zeroes
from tests.support.peak_memory import peak_memory
from tests.support.waiting import eventually

MIB = 2**20
BLOBS = [bytes([number]) * (5 * MIB + number) for number in range(4)]


@pytest.fixture
def source() -> MemoryRegistry:
    registry = MemoryRegistry()
    repository = registry.client().repository("team/image")
    layers = []
    for data in BLOBS:
        repository.push_blob(Digest.of(data), data)
        layers.append(Descriptor(OCTET_STREAM, Digest.of(data), len(data)).to_json())
    manifest = {"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": layers[0], "layers": layers}
    repository.put_manifest("v1", json.dumps(manifest).encode(), IMAGE_MANIFEST)
    registry.asked.clear()
    return registry


@pytest.fixture
def ours() -> MemoryRegistry:
    return MemoryRegistry()


def transfer(source: MemoryRegistry, ours: MemoryRegistry) -> Repository:
    origin, target = source.client().repository("team/image"), ours.client().repository("copies/image")
    copy(origin, target, plan(origin, "v1"), "v1", same_registry=False, on_progress=lambda _: None)
    return target


def failure(source: MemoryRegistry, ours: MemoryRegistry) -> DvcrError:
    with pytest.raises(DvcrError) as caught:
        transfer(source, ours)
    assert ours.manifests.get("copies/image", {}) == {}
    return caught.value


def test_a_whole_copy_leaves_no_session(source: MemoryRegistry, ours: MemoryRegistry) -> None:
    target = transfer(source, ours)
    assert [target.read_blob(Digest.of(data)) for data in BLOBS] == BLOBS
    eventually(lambda: ours.uploads == {}, "no session is left")


@pytest.mark.parametrize("spoiled", [BLOBS[1] + b"more", BLOBS[1][:-1], BLOBS[1][:-1] + b"?"])
def test_a_blob_that_is_not_what_its_descriptor_says(
    source: MemoryRegistry, ours: MemoryRegistry, spoiled: bytes
) -> None:
    source.blobs["team/image"][str(Digest.of(BLOBS[1]))] = spoiled
    error = failure(source, ours)
    assert (type(error), error.reason) == (IntegrityError, "DigestMismatch")
    eventually(lambda: ours.uploads == {}, "no session is left")


def test_endless_blobs_take_neither_memory_nor_disk(source: MemoryRegistry, ours: MemoryRegistry) -> None:
    bodies = [Zeroes() for _ in BLOBS]
    source.faults = [
        Fault("GET", str(Digest.of(data)), answer=Answer(200, stream=body))
        for data, body in zip(BLOBS, bodies, strict=True)
    ]
    with peak_memory() as peak:
        error = failure(source, ours)
    assert (type(error), error.reason) == (IntegrityError, "DigestMismatch")
    eventually(lambda: ours.uploads == {}, "no session is left")
    assert max(body.read_bytes for body in bodies) < 8 * MIB
    assert peak.grown < 200 * MIB, "of which our registry's sessions take most"


def test_sessions_are_given_up_though_the_registry_is_busy(source: MemoryRegistry, ours: MemoryRegistry) -> None:
    source.faults = [Fault("GET", "blobs", times=99, answer=Answer(403))]
    ours.faults = [
        Fault("DELETE", "uploads"),
        Fault("DELETE", "uploads", answer=Answer(409, b"", {"Retry-After": "1"})),
    ]
    assert type(failure(source, ours)) is RegistryError
    eventually(lambda: ours.uploads == {}, "no session is left")


def test_a_registry_that_does_not_give_up_sessions_hides_no_error(source: MemoryRegistry, ours: MemoryRegistry) -> None:
    source.faults = [Fault("GET", "blobs", times=99, answer=Answer(403))]
    ours.faults = [Fault("DELETE", "uploads", times=99)]
    error = failure(source, ours)
    assert isinstance(error, RegistryError)
    assert error.status == 403
