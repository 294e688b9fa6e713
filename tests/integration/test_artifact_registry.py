"""Disk images in a real registry, through faults."""

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dvcr.artifact.cache import ChunkCache
from dvcr.artifact.manifest import config_json
from dvcr.artifact.reader import ImageReader
from dvcr.artifact.store import fetch, publish, remove
from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.client.retry import RetryPolicy
from dvcr.client.transport import Transport
from dvcr.config import ClientSettings
from dvcr.digest import Digest, Hasher
from dvcr.errors import RegistryError
from tests.support.artifacts import CHUNK, image_of, noise, push, text
from tests.support.registry import RegistryServer

DISK = text(CHUNK, 1) + bytes(CHUNK) + b"".join(noise(CHUNK, seed) for seed in range(4)) + text(12_345, 2)


def repository_of(server: RegistryServer, name: str = "cvmi/debian") -> Repository:
    return RegistryClient.from_settings(ClientSettings(url=server.url, timeout_s=20)).repository(name)


def test_a_disk_comes_back(fresh_registry: RegistryServer, tmp_path: Path) -> None:
    repository = repository_of(fresh_registry)
    image = push(repository, DISK)
    digest = publish(repository, image, ["uid", "latest"])
    stored = fetch(repository, "uid")
    assert (stored.image, stored.digest) == (image, digest)
    with ImageReader(repository, stored.image, cache=ChunkCache(tmp_path / "cache", 2**30), read_ahead=3) as reader:
        assert reader.read_at(0, len(DISK) + 1) == DISK


def test_removed_leaves_no_byte_that_another_image_does_not_need(fresh_registry: RegistryServer) -> None:
    repository = repository_of(fresh_registry)
    changed = DISK[: 3 * CHUNK] + noise(CHUNK, 99) + DISK[4 * CHUNK :]
    old = publish(repository, push(repository, DISK), ["old", "latest"])
    image = push(repository, changed)
    publish(repository, image, ["new", "latest"])
    remove(repository, old)
    assert sorted(repository.tags()) == ["latest", "new"]
    with ImageReader(repository, fetch(repository, "new").image) as reader:
        assert reader.read_at(0, len(changed)) == changed
    gone = {chunk.descriptor.digest for chunk in image_of(DISK)[0].chunks} - {
        chunk.descriptor.digest for chunk in image.chunks
    }
    assert gone
    assert not any(repository.has_blob(digest) for digest in gone)
    remove(repository, fetch(repository, "new").digest)
    assert repository.tags() == []
    assert not any(repository.has_blob(chunk.descriptor.digest) for chunk in image.chunks)
    assert not repository.has_blob(Digest.of(config_json(image)))


def test_a_second_version_stores_only_the_new_chunk(fresh_registry: RegistryServer) -> None:
    repository = repository_of(fresh_registry)
    publish(repository, push(repository, DISK), ["one"])
    before = fresh_registry.stored_bytes()
    changed = DISK[: 3 * CHUNK] + noise(2**20, 99) + DISK[3 * CHUNK + 2**20 :]
    publish(repository, push(repository, changed), ["two"])
    assert CHUNK <= fresh_registry.stored_bytes() - before < CHUNK + 10_000


def test_images_outlive_a_killed_registry(fresh_registry: RegistryServer) -> None:
    repository = repository_of(fresh_registry)
    publish(repository, push(repository, DISK), ["uid"])
    reader = ImageReader(repository, fetch(repository, "uid").image)
    assert reader.read_at(0, 10) == DISK[:10]
    fresh_registry.kill()
    fresh_registry.start()
    again = repository_of(fresh_registry)
    assert ImageReader(again, fetch(again, "uid").image).read_at(2 * CHUNK, CHUNK) == DISK[2 * CHUNK : 3 * CHUNK]


def test_a_chunk_damaged_in_the_store_is_never_read(fresh_registry: RegistryServer) -> None:
    repository = repository_of(fresh_registry)
    image = push(repository, DISK)
    publish(repository, image, ["uid"])
    digest = image.chunks[1].descriptor.digest
    (path,) = (path for path in fresh_registry.root.rglob("*") if path.is_file() and _holds(path, digest))
    path.write_bytes(bytes(CHUNK))
    reader = ImageReader(repository, image)
    with pytest.raises(RegistryError, match="corrupt: push it again"):
        reader.read_at(image.chunks[1].index * CHUNK, 1)


def _holds(path: Path, digest: Digest) -> bool:
    return path.stat().st_size == CHUNK and Digest.of(path.read_bytes()) == digest


def test_an_outage_is_an_error_that_is_worth_a_retry(fresh_registry: RegistryServer) -> None:
    transport = Transport(fresh_registry.url, retry=RetryPolicy(sleep=lambda _: None))
    repository = RegistryClient(transport).repository("cvmi/debian")
    image = push(repository, DISK)
    fresh_registry.stop()
    with pytest.raises(RegistryError) as caught:
        ImageReader(repository, image).read_at(0, 1)
    assert caught.value.retryable


def test_eight_pushes_at_once(registry_server: RegistryServer) -> None:
    repository = repository_of(registry_server, "integration/parallel")
    image, blobs = image_of(b"".join(noise(CHUNK, seed) for seed in range(100, 112)))
    barrier = threading.Barrier(8)

    def send(item: tuple[Digest, bytes]) -> bool:
        return repository.push_blob(*item)

    with ThreadPoolExecutor(8, initializer=barrier.wait) as pool:
        futures = [pool.submit(send, item) for item in blobs.items() for _ in range(2)]
        for future in futures:
            future.result()
    publish(repository, image, ["uid"])


def test_memory_stays_flat_whatever_the_size_of_a_blob(registry_server: RegistryServer) -> None:
    repository = repository_of(registry_server, "integration/large")
    piece, hasher = noise(2**20), Hasher()
    tracemalloc.start()
    try:
        upload = repository.begin_upload()
        for _ in range(64):
            upload.append(piece)
            hasher.update(piece)
        upload.commit(hasher.digest())
        read = sum(len(part) for part in repository.open_blob(hasher.digest(), 64 * 2**20))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    repository.delete_blob(hasher.digest())
    assert read == 64 * 2**20
    assert peak < 8 * 2**20
