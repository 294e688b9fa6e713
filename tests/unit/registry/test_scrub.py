import json
from datetime import timedelta

import pytest

from dvcr.descriptor import IMAGE_INDEX, IMAGE_MANIFEST, Descriptor
from dvcr.digest import Digest
from dvcr.registry.errors import BlobUnknownError, ManifestCorruptError, ManifestUnknownError
from dvcr.registry.registry import Registry
from dvcr.storage import paths
from tests.support.memory_storage import MemoryStorage
from tests.unit.registry.samples import manifest, push_blob, push_image

HOUR = timedelta(hours=1)


def damage(storage: MemoryStorage, key: str) -> None:
    """Flip the last bit, as a bad disk does: nothing else changes."""
    value = storage.values[key]
    storage.values[key] = value[:-1] + bytes([value[-1] ^ 1])


def test_a_whole_store_is_healthy(registry: Registry) -> None:
    push_image(registry, "a", "t", b"layer")
    read: list[int] = []
    report = registry.scrubber.run(on_bytes=read.append)
    assert (report.healthy, report.blobs, report.manifests) == (True, 2, 1)
    assert sum(read) == registry.scrubber.size_bytes() == len(b"layer") + len(b"{}")


def test_a_corrupt_blob_is_moved_aside_and_every_image_that_needs_it_is_named(
    registry: Registry, storage: MemoryStorage
) -> None:
    image = push_image(registry, "a", "one", b"layer")
    registry.tags.set("a", "two", image)
    push_image(registry, "b", "untouched", b"other")
    index = {"schemaVersion": 2, "manifests": [Descriptor(IMAGE_MANIFEST, image, 1).to_json()]}
    nested = registry.manifests.put("a", json.dumps(index).encode(), IMAGE_INDEX, tags=["index"]).digest
    outer = {"schemaVersion": 2, "manifests": [Descriptor(IMAGE_INDEX, nested, 1).to_json()]}
    outer_digest = Digest.of(json.dumps(outer).encode())
    registry.manifests.put("a", json.dumps(outer).encode(), IMAGE_INDEX, digest=outer_digest)
    layer = Digest.of(b"layer")
    damage(storage, paths.blob(layer))
    report = registry.scrubber.run()
    assert report.corrupt_blobs == [str(layer)]
    assert not report.healthy
    assert set(report.damaged_images) == {"a:one", "a:two", "a:index", f"a@{outer_digest}"}
    assert report.damaged_images["a:one"] == [f"blob {layer} is missing"]
    assert storage.values[paths.quarantined_blob(layer)] != b"layer"
    for ask in (registry.blobs.size_bytes, registry.blobs.confirm):
        with pytest.raises(BlobUnknownError):
            ask("a", layer)
    assert not storage.sessions


def test_pushing_again_heals(registry: Registry, storage: MemoryStorage) -> None:
    push_image(registry, "a", "t", b"layer")
    damage(storage, paths.blob(Digest.of(b"layer")))
    registry.scrubber.run()
    assert list(registry.scrubber.run().damaged_images) == ["a:t"], "it stays on the list until it is healed"
    push_blob(registry, "a", b"layer")
    assert registry.scrubber.run().healthy
    assert not any("quarantine" in key for key in storage.values)


def test_a_corrupt_manifest_is_never_given_away(registry: Registry, storage: MemoryStorage) -> None:
    digest = push_image(registry, "a", "t", b"layer")
    damage(storage, paths.manifest("a", digest))
    for _ in range(2):  # before and after it was found
        for reference in (digest, "t"):
            with pytest.raises(ManifestCorruptError):
                registry.manifests.get("a", reference)
        report = registry.scrubber.run()
        assert list(report.damaged_images) == ["a:t"]
    registry.manifests.put("a", manifest(b"{}", b"layer"), IMAGE_MANIFEST, tags=["t"])
    assert registry.manifests.get("a", "t").digest == digest
    assert registry.scrubber.run().healthy


def test_a_corrupt_manifest_can_be_deleted(registry: Registry, storage: MemoryStorage) -> None:
    for scrubbed in (False, True):
        digest = push_image(registry, "a", "t", b"layer")
        damage(storage, paths.manifest("a", digest))
        if scrubbed:
            registry.scrubber.run()
        registry.manifests.delete("a", digest)
        assert registry.tags.all("a") == []
        with pytest.raises(ManifestUnknownError):
            registry.manifests.get("a", digest)
    storage.age(2 * HOUR)
    registry.collector.run()
    assert not storage.values


def test_a_corrupt_tag_is_told_and_can_be_set_or_deleted(registry: Registry, storage: MemoryStorage) -> None:
    digest = push_image(registry, "a", "t", b"layer")
    storage.values[paths.tag("a", "t")] = b"\xff"
    with pytest.raises(ManifestCorruptError):
        registry.manifests.get("a", "t")
    assert list(registry.scrubber.run().damaged_images) == ["a:t"]
    registry.tags.delete("a", "t")
    registry.tags.set("a", "t", digest)
    assert registry.scrubber.run().healthy


def test_a_referrer_is_written_anew(registry: Registry, storage: MemoryStorage) -> None:
    subject = push_image(registry, "a", "t", b"1")
    link = Descriptor(IMAGE_MANIFEST, subject, 1).to_json()
    referrer = push_image(registry, "a", "r", b"2", subject=link, artifactType="x/y")
    storage.values[paths.referrer("a", subject, referrer)] = b"{"
    assert list(registry.referrers.of("a", subject)) == []
    assert registry.scrubber.run().repaired_referrers == 1
    assert [item["artifactType"] for item in registry.referrers.of("a", subject)] == ["x/y"]
    assert registry.scrubber.run().repaired_referrers == 0


def test_what_cannot_be_moved_is_told(registry: Registry, storage: MemoryStorage) -> None:
    push_image(registry, "a", "t", b"layer")
    damage(storage, paths.blob(Digest.of(b"layer")))
    storage.room_bytes = 0
    report = registry.scrubber.run()
    assert len(report.unreadable) == 1
    assert "full" in report.unreadable[0]
    assert not storage.sessions


def test_a_blob_that_is_pushed_again_while_it_is_moved_stays(
    registry: Registry, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_image(registry, "a", "t", b"layer")
    layer = Digest.of(b"layer")
    damage(storage, paths.blob(layer))
    delete = storage.delete_unmodified_since

    def push_then_delete(key: str, moment: object) -> bool:
        monkeypatch.setattr(storage, "delete_unmodified_since", delete)
        storage.values.pop(key)
        storage.age(-timedelta(seconds=1))  # time passes
        push_blob(registry, "a", b"layer")
        storage.modified[key] += timedelta(seconds=2)
        return delete(key, moment)  # type: ignore[arg-type]

    monkeypatch.setattr(storage, "delete_unmodified_since", push_then_delete)
    assert registry.scrubber.run().corrupt_blobs == []
    assert storage.values[paths.blob(layer)] == b"layer"


class TestCollectionBesideCorruption:
    def test_one_unreadable_manifest_neither_stops_the_run_nor_costs_its_repository_anything(
        self, registry: Registry, storage: MemoryStorage
    ) -> None:
        digest = push_image(registry, "a", "t", b"layer")
        push_blob(registry, "b", b"orphan")
        damage(storage, paths.manifest("a", digest))
        for _ in range(2):  # in its place, then in quarantine
            storage.age(2 * HOUR)
            report = registry.collector.run()
            assert report.unreadable == 1
            assert registry.blobs.size_bytes("a", Digest.of(b"layer")) == 5
            registry.scrubber.run()
        assert paths.blob(Digest.of(b"orphan")) not in storage.values
        registry.manifests.put("a", manifest(b"{}", b"layer"), IMAGE_MANIFEST, tags=["t"])
        assert registry.collector.run().unreadable == 0

    def test_a_manifest_that_rules_of_today_refuse_keeps_its_repository(
        self, registry: Registry, storage: MemoryStorage
    ) -> None:
        push_image(registry, "a", "t", b"layer")
        body = b'{"layers": 5}'
        storage.write(paths.manifest("a", Digest.of(body)), IMAGE_MANIFEST.encode() + b"\n" + body)
        storage.age(2 * HOUR)
        assert registry.collector.run().unreadable == 1
        registry.manifests.delete("a", Digest.of(body))
        assert registry.collector.run().unreadable == 0
