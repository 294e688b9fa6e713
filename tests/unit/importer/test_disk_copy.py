"""Disks of another registry that sends other chunks than the disk's manifest says."""

import pytest

from dvcr.artifact.image import DiskImage
from dvcr.errors import DvcrError, IntegrityError, SourceError
from importer.disk_copy import DiskCopy
from tests.support.artifacts import CHUNK, noise, push
from tests.support.memory_registry import Answer, Fault, MemoryRegistry, Zeroes
from tests.support.waiting import eventually

DISK = b"".join(noise(CHUNK, seed) for seed in range(3))


@pytest.fixture
def source() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.fixture
def ours() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.fixture
def image(source: MemoryRegistry) -> DiskImage:
    return push(source.client().repository("evil/disk"), DISK)


def failure(source: MemoryRegistry, ours: MemoryRegistry, image: DiskImage) -> DvcrError:
    copy = DiskCopy(source.client().repository("evil/disk"), image, same_registry=False)
    with pytest.raises(DvcrError) as caught:
        copy.copy(ours.client().repository("vmi/a/b"), lambda _: None)
    return caught.value


def test_endless_chunks_leave_nothing_behind(source: MemoryRegistry, ours: MemoryRegistry, image: DiskImage) -> None:
    bodies = [Zeroes() for _ in image.chunks]
    source.faults = [
        Fault("GET", str(chunk.descriptor.digest), answer=Answer(200, stream=body))
        for chunk, body in zip(image.chunks, bodies, strict=True)
    ]
    error = failure(source, ours, image)
    assert (type(error), error.reason) == (IntegrityError, "DigestMismatch")
    eventually(lambda: ours.uploads == {}, "no session is left")
    assert ours.blobs.get("vmi/a/b", {}) == {}
    assert max(body.read_bytes for body in bodies) < 2 * CHUNK + 2**21


def test_a_longer_chunk_leaves_nothing_behind(source: MemoryRegistry, ours: MemoryRegistry, image: DiskImage) -> None:
    digest = str(image.chunks[1].descriptor.digest)
    source.blobs["evil/disk"][digest] += b"more"
    error = failure(source, ours, image)
    assert (type(error), error.reason) == (IntegrityError, "DigestMismatch")
    eventually(lambda: ours.uploads == {}, "no session is left")


def test_a_copy_that_is_aborted_leaves_nothing_behind(
    source: MemoryRegistry, ours: MemoryRegistry, image: DiskImage
) -> None:
    copy = DiskCopy(source.client().repository("evil/disk"), image, same_registry=False)
    target = ours.client().repository("vmi/a/b")

    def abort(request: object) -> None:
        if ours.count("PATCH"):
            copy.abort()

    ours.intercept = abort
    with pytest.raises(SourceError, match="stopped"):
        copy.copy(target, lambda _: None)
    eventually(lambda: ours.uploads == {}, "no session is left")
