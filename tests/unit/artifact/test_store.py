"""Publishing, fetching and removing images."""

from dataclasses import replace

import pytest

from dvcr.artifact.manifest import ARTIFACT_TYPE, CONFIG, config_json
from dvcr.artifact.store import fetch, publish, remove
from dvcr.client.repository import Repository
from dvcr.descriptor import IMAGE_INDEX, IMAGE_MANIFEST
from dvcr.digest import Digest
from dvcr.errors import ImageError, IntegrityError, RegistryError
from tests.support.artifacts import CHUNK, image_of, noise, push
from tests.support.memory_registry import Fault, MemoryRegistry, refusal

OLD = noise(CHUNK, 1) + noise(CHUNK, 2) + bytes(CHUNK) + noise(1000, 3)
NEW = noise(CHUNK, 1) + noise(CHUNK, 4) + bytes(CHUNK) + noise(1000, 3)


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.fixture
def repository(registry: MemoryRegistry) -> Repository:
    return registry.client().repository("cvmi/debian")


def test_what_was_published_is_fetched(repository: Repository) -> None:
    image = push(repository, OLD)
    digest = publish(repository, image, ["uid", "latest"])
    for reference in ("uid", "latest", digest):
        stored = fetch(repository, reference)
        assert (stored.image, stored.digest, stored.repository) == (image, digest, "cvmi/debian")


def test_publishing_again_changes_nothing(registry: MemoryRegistry, repository: Repository) -> None:
    image = push(repository, OLD)
    assert publish(repository, image, ["uid"]) == publish(repository, image, ["uid"])
    assert len(registry.manifests["cvmi/debian"]) == 1


def test_a_disk_of_zeroes(repository: Repository) -> None:
    image, blobs = image_of(bytes(3 * CHUNK))
    assert blobs == {}
    publish(repository, image, ["uid"])
    assert fetch(repository, "uid").image == image


def test_nothing_is_visible_before_every_chunk_is_there(registry: MemoryRegistry, repository: Repository) -> None:
    image = push(repository, OLD)
    repository.delete_blob(image.chunks[0].descriptor.digest)
    with pytest.raises(RegistryError) as caught:
        publish(repository, image, ["uid"])
    assert (caught.value.code, caught.value.retryable) == ("MANIFEST_BLOB_UNKNOWN", True)
    assert repository.tags() == []


def test_an_image_that_is_not_there(repository: Repository) -> None:
    with pytest.raises(RegistryError) as caught:
        fetch(repository, "uid")
    assert caught.value.status == 404


def test_another_artifact_is_no_disk(repository: Repository) -> None:
    repository.put_manifest("uid", b'{"schemaVersion":2,"layers":[]}', IMAGE_MANIFEST)
    with pytest.raises(ImageError) as caught:
        fetch(repository, "uid")
    assert caught.value.reason == "UnknownFormat"


def test_a_config_that_is_gone_is_not_an_image_that_never_was(repository: Repository) -> None:
    image = push(repository, OLD)
    publish(repository, image, ["uid"])
    repository.delete_blob(Digest.of(config_json(image)))
    with pytest.raises(ImageError, match=r"config .* is missing"):
        fetch(repository, "uid")


def test_a_config_that_was_changed(registry: MemoryRegistry, repository: Repository) -> None:
    image = push(repository, OLD)
    publish(repository, image, ["uid"])
    config = config_json(image)
    registry.blobs["cvmi/debian"][str(Digest.of(config))] = config.replace(b"false", b"true ")
    with pytest.raises(IntegrityError):
        fetch(repository, "uid")


def test_a_config_of_gigabytes_is_not_read(registry: MemoryRegistry, repository: Repository) -> None:
    huge = f'{{"mediaType":"{CONFIG}","digest":"{Digest.of(b"")}","size":{2**33}}}'
    body = f'{{"schemaVersion":2,"artifactType":"{ARTIFACT_TYPE}","config":{huge},"layers":[]}}'.encode()
    repository.push_blob(Digest.of(b""), b"")
    repository.put_manifest("uid", body, IMAGE_MANIFEST)
    with pytest.raises(ImageError, match="over 1048576"):
        fetch(repository, "uid")
    assert registry.count("GET /v2/cvmi/debian/blobs") == 0


class TestRemove:
    def test_nothing_is_left_of_the_only_image(self, registry: MemoryRegistry, repository: Repository) -> None:
        digest = publish(repository, push(repository, OLD), ["uid", "latest"])
        remove(repository, digest)
        assert registry.blobs["cvmi/debian"] == {}
        assert registry.manifests["cvmi/debian"] == {}
        assert repository.tags() == []

    def test_what_another_image_needs_stays(self, repository: Repository) -> None:
        old, new = push(repository, OLD), push(repository, NEW)
        removed = publish(repository, old, ["old", "latest"])
        publish(repository, new, ["new", "latest"])
        remove(repository, removed)
        assert repository.tags() == ["latest", "new"]
        assert all(repository.has_blob(chunk.descriptor.digest) for chunk in new.chunks)
        assert not repository.has_blob(old.chunks[1].descriptor.digest)

    def test_what_an_image_inside_an_index_needs_stays(self, repository: Repository) -> None:
        old, new = push(repository, OLD), push(repository, NEW)
        removed, kept = publish(repository, old, ["old"]), publish(repository, new, ["new"])
        child = f'{{"mediaType":"{IMAGE_MANIFEST}","digest":"{kept}","size":1}}'
        gone = child.replace(kept.hex, "0" * 64)
        body = f'{{"schemaVersion":2,"mediaType":"{IMAGE_INDEX}","manifests":[{child},{gone}]}}'
        repository.put_manifest("new", body.encode(), IMAGE_INDEX)
        remove(repository, removed)
        assert all(repository.has_blob(chunk.descriptor.digest) for chunk in new.chunks)

    def test_other_repositories_keep_theirs(self, registry: MemoryRegistry, repository: Repository) -> None:
        other = registry.client().repository("vmi/default/debian")
        image = push(repository, OLD)
        push(other, OLD)
        remove(repository, publish(repository, image, ["uid"]))
        assert all(other.has_blob(chunk.descriptor.digest) for chunk in image.chunks)

    def test_twice(self, repository: Repository) -> None:
        digest = publish(repository, push(repository, OLD), ["uid"])
        remove(repository, digest)
        remove(repository, digest)

    def test_a_manifest_that_cannot_be_read_keeps_every_blob(
        self, registry: MemoryRegistry, repository: Repository
    ) -> None:
        digest = publish(repository, push(repository, OLD), ["uid"])
        body = b'{"layers":[{"digest":7}]}'
        registry.manifests["cvmi/debian"][str(Digest.of(body))] = (IMAGE_MANIFEST, body)
        registry.tags["cvmi/debian"]["strange"] = str(Digest.of(body))
        with pytest.raises(ImageError):
            remove(repository, digest)
        assert registry.count("DELETE /v2/cvmi/debian/blobs") == 0

    def test_a_refused_deletion_is_raised(self, registry: MemoryRegistry, repository: Repository) -> None:
        digest = publish(repository, push(repository, OLD), ["uid"])
        registry.faults = [Fault("DELETE", "blobs", times=9, answer=refusal(405, "UNSUPPORTED"))]
        with pytest.raises(RegistryError) as caught:
            remove(repository, digest)
        assert caught.value.status == 405


def test_a_second_version_stores_only_what_changed(registry: MemoryRegistry, repository: Repository) -> None:
    publish(repository, push(repository, OLD), ["old"])
    before = registry.received_bytes
    image, blobs = image_of(NEW)
    sent = sum(len(data) for digest, data in blobs.items() if repository.push_blob(digest, data))
    assert sent == CHUNK
    publish(repository, replace(image), ["new"])
    assert registry.received_bytes - before < CHUNK + 5000
