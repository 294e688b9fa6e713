"""Answers that are given again without asking the store in full."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from dvcr.descriptor import IMAGE_CONFIG, IMAGE_MANIFEST
from dvcr.digest import Digest
from dvcr.registry.errors import BlobUnknownError
from dvcr.registry.recall import Recall
from dvcr.registry.registry import Registry
from dvcr.registry.trust import now
from dvcr.storage import paths
from dvcr.storage.filesystem import FilesystemStorage
from tests.support.memory_storage import MemoryStorage

DATA = b"{}"
BLOB = Digest.of(DATA)
MANIFEST = b'{"schemaVersion":2,"mediaType":"%b","config":{"mediaType":"%b","digest":"%b","size":2},"layers":[]%b}'


@pytest.fixture
def storage(tmp_path: Path) -> FilesystemStorage:
    return FilesystemStorage(tmp_path)


@pytest.fixture
def registry(storage: FilesystemStorage) -> Registry:
    """With one blob in `a`, and a manifest under `a:latest`."""
    registry = Registry(storage)
    upload = registry.uploads.begin("a")
    upload.append(DATA)
    upload.commit("a", BLOB)
    put(registry)
    return registry


def put(registry: Registry, change: bytes = b"") -> Digest:
    body = MANIFEST % (IMAGE_MANIFEST.encode(), IMAGE_CONFIG.encode(), str(BLOB).encode(), change)
    return registry.manifests.put("a", body, IMAGE_MANIFEST, tags=["latest"]).digest


def age(storage: FilesystemStorage, key: str, age_s: float) -> None:
    file = storage.local_path(key)
    os.utime(file, (file.stat().st_atime - age_s, file.stat().st_mtime - age_s))


class TestBlobs:
    def test_what_was_confirmed_is_recalled_where_it_was_asked_for(
        self, registry: Registry, storage: FilesystemStorage
    ) -> None:
        assert Registry(storage).blobs.recall("a", BLOB) is None, "this server was not asked for it"
        assert registry.blobs.confirm("a", BLOB) == len(DATA)
        assert registry.blobs.recall("a", BLOB) == len(DATA)
        assert registry.blobs.recall("b", BLOB) is None

    @pytest.mark.parametrize("key", [paths.blob(BLOB), paths.blob_link("a", BLOB)])
    def test_not_if_blob_or_link_is_deleted_or_no_longer_fresh(
        self, registry: Registry, storage: FilesystemStorage, tmp_path: Path, key: str
    ) -> None:
        registry.blobs.confirm("a", BLOB)
        age(storage, key, 100)
        assert registry.blobs.recall("a", BLOB) is None
        registry.blobs.confirm("a", BLOB)
        assert registry.blobs.recall("a", BLOB) == len(DATA)
        FilesystemStorage(tmp_path).delete(key)  # another server
        assert registry.blobs.recall("a", BLOB) is None
        with pytest.raises(BlobUnknownError):
            registry.blobs.confirm("a", BLOB)

    def test_never_where_collection_has_no_grace(self, registry: Registry, storage: FilesystemStorage) -> None:
        strict = Registry(storage, grace=timedelta(0))
        strict.blobs.confirm("a", BLOB)
        assert strict.blobs.recall("a", BLOB) is None


class TestManifests:
    def test_what_was_read_is_recalled_by_tag_and_by_digest(self, registry: Registry) -> None:
        assert registry.manifests.recall("a", "latest") is None
        manifest = registry.manifests.get("a", "latest")
        assert registry.manifests.recall("a", "latest") == manifest
        assert registry.manifests.recall("a", manifest.digest) is None
        assert registry.manifests.get("a", manifest.digest) == manifest
        assert registry.manifests.recall("a", manifest.digest) == manifest

    def test_a_tag_that_another_server_moves_is_seen_at_once(
        self, registry: Registry, storage: FilesystemStorage
    ) -> None:
        old = registry.manifests.get("a", "latest")
        moved = put(Registry(storage), b',"annotations":{}')
        assert registry.manifests.recall("a", "latest") is None
        assert registry.manifests.get("a", "latest").digest == moved != old.digest

    def test_so_is_its_deletion_and_that_of_the_manifest(self, registry: Registry, storage: FilesystemStorage) -> None:
        digest = registry.manifests.get("a", "latest").digest
        Registry(storage).tags.delete("a", "latest")
        assert registry.manifests.recall("a", "latest") is None
        registry.manifests.get("a", digest)
        Registry(storage).manifests.delete("a", digest)
        assert registry.manifests.recall("a", digest) is None

    def test_bytes_that_change_on_the_disk_are_read_again(self, registry: Registry, storage: FilesystemStorage) -> None:
        digest = registry.manifests.get("a", "latest").digest
        file = storage.local_path(paths.manifest("a", digest))
        file.write_bytes(file.read_bytes().replace(b"schemaVersion", b"schemaVersiom"))
        assert registry.manifests.recall("a", "latest") is None


def test_the_oldest_is_forgotten_and_nothing_is_held_for_longer_than_asked(storage: FilesystemStorage) -> None:
    storage.write("key", b"value")
    recall: Recall[int, str] = Recall(storage, 60)
    look = recall.look("key")
    for number in range(1025):
        recall.put(number, "value", look, now())
    assert recall.get(0) is None
    assert recall.get(1) == recall.get(1024) == "value"
    recall.put(1, "value", look, now() - 61)
    assert recall.get(1) is None


def test_without_files_nothing_is_recalled() -> None:
    storage = MemoryStorage()
    storage.write("key", b"value")
    recall: Recall[str, str] = Recall(storage, 60)
    recall.put("key", "value", recall.look("key"), now())
    assert recall.get("key") is None
