from datetime import timedelta

import pytest

from dvcr.descriptor import IMAGE_MANIFEST
from dvcr.digest import Digest
from dvcr.registry.errors import BlobUnknownError, UploadUnknownError
from dvcr.registry.registry import Registry
from dvcr.storage import paths
from tests.support.memory_storage import MemoryStorage
from tests.unit.registry.samples import manifest, push_blob, push_image

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def has_bytes(storage: MemoryStorage, digest: Digest) -> bool:
    return paths.blob(digest) in storage.values


def test_what_manifests_need_stays_and_the_rest_goes(registry: Registry, storage: MemoryStorage) -> None:
    push_image(registry, "a", "t", b"layer")
    orphan = push_blob(registry, "a", b"orphan")
    storage.age(2 * HOUR)
    assert registry.collector.run(dry_run=True).blobs == 1
    assert has_bytes(storage, orphan)
    report = registry.collector.run()
    assert (report.links, report.blobs, report.bytes) == (1, 1, 6)
    assert not has_bytes(storage, orphan)
    assert has_bytes(storage, Digest.of(b"layer"))
    assert registry.collector.run().blobs == 0


def test_what_is_fresh_stays(registry: Registry, storage: MemoryStorage) -> None:
    orphan = push_blob(registry, "a", b"orphan")
    storage.age(59 * MINUTE)
    registry.collector.run()
    assert has_bytes(storage, orphan)


@pytest.mark.parametrize("use", ["confirm", "mount", "push", "manifest"])
def test_whatever_a_push_relies_on_is_fresh_again(registry: Registry, storage: MemoryStorage, use: str) -> None:
    digest = push_blob(registry, "a", b"{}")
    storage.age(2 * HOUR)
    if use == "confirm":
        registry.blobs.confirm("a", digest)
    elif use == "mount":
        assert registry.blobs.mount("a", digest)
    elif use == "push":
        push_blob(registry, "a", b"{}")
    else:
        registry.manifests.put("a", manifest(b"{}"), IMAGE_MANIFEST, tags=["t"])
    registry.collector.run()
    assert registry.blobs.size_bytes("a", digest) == 2
    assert has_bytes(storage, digest)


def test_a_push_may_take_longer_than_the_grace(registry: Registry, storage: MemoryStorage) -> None:
    chunks = [b"%d" % number for number in range(10)]
    for chunk in chunks:
        push_blob(registry, "a", chunk)
        storage.age(30 * MINUTE)
        registry.collector.run()
    for chunk in chunks:
        assert registry.blobs.size_bytes("a", Digest.of(chunk))


def test_a_repository_that_is_always_busy_loses_its_garbage_in_the_end(
    registry: Registry, storage: MemoryStorage
) -> None:
    orphan = push_blob(registry, "a", b"orphan")
    storage.age(25 * HOUR)
    push_blob(registry, "a", b"busy")
    registry.collector.run()
    assert not has_bytes(storage, orphan)


def test_a_blob_of_two_repositories_stays_for_the_one_that_needs_it(registry: Registry, storage: MemoryStorage) -> None:
    first = push_image(registry, "a", "t", b"shared")
    push_image(registry, "b", "t", b"shared")
    registry.manifests.delete("a", first)
    storage.age(2 * HOUR)
    report = registry.collector.run()
    assert (report.links, report.blobs, report.repositories) == (2, 0, 1)
    with pytest.raises(BlobUnknownError):
        registry.blobs.size_bytes("a", Digest.of(b"shared"))
    assert registry.blobs.size_bytes("b", Digest.of(b"shared")) == 6


def test_deleted_images_leave_an_empty_store(registry: Registry, storage: MemoryStorage) -> None:
    registry.manifests.delete("a", push_image(registry, "a", "t", b"layer"))
    storage.age(2 * HOUR)
    registry.collector.run()
    assert not storage.values


def test_abandoned_uploads_expire(registry: Registry, storage: MemoryStorage) -> None:
    old = registry.uploads.begin()
    storage.age(25 * HOUR)
    new = registry.uploads.begin()
    assert registry.collector.run().uploads == 1
    registry.uploads.resume(new.id)
    with pytest.raises(UploadUnknownError):
        registry.uploads.resume(old.id)


def test_it_can_be_stopped_at_any_point(registry: Registry, storage: MemoryStorage) -> None:
    push_blob(registry, "a", b"orphan")
    storage.age(2 * HOUR)
    assert registry.collector.run(stop=lambda: True).blobs == 0
    assert registry.collector.run().blobs == 1
