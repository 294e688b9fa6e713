"""Bytes that changed in the store are not served: on a file system, where the kernel sends them, and elsewhere."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import requests

from dvcr.digest import Digest
from dvcr.registry.identity import identity
from dvcr.registry.registry import Registry
from dvcr.registry.trust import Trust, now
from dvcr.storage import paths
from dvcr.storage.driver import LocalFiles, StorageDriver
from dvcr.storage.filesystem import FilesystemStorage
from dvcr.storage.s3 import S3Storage
from tests.support.app_server import AppServer
from tests.support.memory_storage import MemoryStorage

SMALL, LARGE = 100_000, 9 * 2**20 + 1


@pytest.fixture(params=["filesystem", "memory", "s3"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AppServer]:
    storage: StorageDriver = MemoryStorage()
    if request.param == "filesystem":
        storage = FilesystemStorage(tmp_path)
    elif request.param == "s3":
        storage = S3Storage(request.getfixturevalue("moto_server").bucket())
    with AppServer(Registry(storage)) as server:
        yield server


def push(http: requests.Session, server: AppServer, data: bytes) -> str:
    digest = str(Digest.of(data))
    answer = http.post(f"{server.url}/v2/a/blobs/uploads/", params={"digest": digest}, data=data)
    assert answer.status_code == 201
    return digest


def overwrite(server: AppServer, digest: str, data: bytes) -> None:
    """Change the value in its place, without telling anybody."""
    storage, key = server.registry.storage, paths.blob(Digest.parse(digest))
    if isinstance(storage, LocalFiles):
        storage.local_path(key).write_bytes(data)
    else:
        storage.delete(key)
        session = storage.begin_upload()
        session.append(data)
        session.commit(key)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def refusal(http: requests.Session, url: str) -> str:
    """Why a pull did not give the whole blob; it must not look as if it had."""
    try:
        answer = http.get(url, timeout=10)
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
        return "cut"
    assert answer.status_code == 404
    return str(answer.json()["errors"][0]["message"])


@pytest.mark.parametrize("pulled_before", [False, True])
@pytest.mark.parametrize(("size", "position"), [(SMALL, 0), (LARGE, 0), (LARGE, -1)])
def test_a_changed_blob_is_not_served_and_a_push_heals_it(
    server: AppServer, http: requests.Session, size: int, position: int, pulled_before: bool
) -> None:
    data = os.urandom(size)
    digest = push(http, server, data)
    url = f"{server.url}/v2/a/blobs/{digest}"
    if pulled_before:
        assert http.get(url).content == data
    overwrite(server, digest, flipped(data, position % size))
    refusal(http, url)
    assert "push it again" in refusal(http, url), "the first pull that noticed moved it aside"
    assert http.head(url).status_code == 404
    push(http, server, data)
    assert http.get(url).content == data


@pytest.mark.parametrize("server", ["filesystem"], indirect=True)
@pytest.mark.parametrize("ranges", ["bytes=0-0", "bytes=-1", "bytes=0-0,5-6"])
def test_no_part_of_a_changed_small_blob_is_served(server: AppServer, http: requests.Session, ranges: str) -> None:
    data = os.urandom(SMALL)
    digest = push(http, server, data)
    url, headers = f"{server.url}/v2/a/blobs/{digest}", {"Range": ranges}
    assert http.get(url, headers=headers).status_code == 206
    overwrite(server, digest, flipped(data, SMALL // 2))
    answer = http.get(url, headers=headers)
    assert (answer.status_code, "push it again" in answer.text) == (404, True)
    assert "push it again" in http.get(url, headers=headers).text
    push(http, server, data)
    assert http.get(url, headers=headers).status_code == 206


def test_a_scrub_moves_it_aside(server: AppServer, http: requests.Session) -> None:
    data = os.urandom(LARGE)
    digest = push(http, server, data)
    overwrite(server, digest, flipped(data, 7))
    scrub = server.registry.scrubber.run
    assert scrub().corrupt_blobs == [digest]
    assert "push it again" in refusal(http, f"{server.url}/v2/a/blobs/{digest}")
    push(http, server, data)
    assert scrub().healthy
    assert not list(server.registry.storage.list(paths.QUARANTINE))


def test_a_truncated_blob_is_not_served(server: AppServer, http: requests.Session) -> None:
    data = os.urandom(LARGE)
    digest = push(http, server, data)
    overwrite(server, digest, data[:-1])
    refusal(http, f"{server.url}/v2/a/blobs/{digest}")
    assert "push it again" in refusal(http, f"{server.url}/v2/a/blobs/{digest}")


def test_parts_of_a_large_blob_are_served_while_it_is_whole(server: AppServer, http: requests.Session) -> None:
    data = os.urandom(LARGE)
    url = f"{server.url}/v2/a/blobs/{push(http, server, data)}"
    assert http.get(url, headers={"Range": "bytes=-5"}).content == data[-5:]
    assert http.get(url).content == data


class TestTrust:
    """On files: what was hashed is not hashed at every pull, until something changes."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> FilesystemStorage:
        return FilesystemStorage(tmp_path)

    def push(self, registry: Registry, data: bytes) -> Digest:
        upload = registry.uploads.begin()
        upload.append(data)
        digest = Digest.of(data)
        upload.commit("a", digest)
        return digest

    def test_what_was_pushed_or_pulled_is_trusted_until_its_file_changes(self, storage: FilesystemStorage) -> None:
        registry = Registry(storage)
        digest = self.push(registry, b"data")
        assert registry.verifier.trusts(digest)
        registry.blobs.confirm("a", digest)
        assert registry.blobs.mount("b", digest)
        assert registry.verifier.trusts(digest), "to make it fresh does not change its bytes"
        storage.local_path(paths.blob(digest)).touch()
        assert not registry.verifier.trusts(digest)
        with storage.open(paths.blob(digest)) as reader:
            registry.verifier.begin(digest, reader).result()
            assert registry.verifier.trusts(digest, reader)
        registry.verifier.close()

    def test_who_shares_it_knows_of_it(self, storage: FilesystemStorage) -> None:
        trust = Trust()
        digest = self.push(Registry(storage, trust=trust), b"data")
        assert Registry(storage, trust=trust).verifier.trusts(digest)
        assert not Registry(storage).verifier.trusts(digest), "another server, or this one after a restart"
        storage.local_path(paths.blob(digest)).touch()
        assert not Registry(storage, trust=trust).verifier.trusts(digest)

    def test_not_for_longer_than_the_interval(self, storage: FilesystemStorage) -> None:
        trust = Trust()
        digest = self.push(Registry(storage, trust=trust), b"data")
        assert not Registry(storage, verify_interval=timedelta(0), trust=trust).verifier.trusts(digest)

    def test_who_makes_a_blob_fresh_does_not_prolong_it(self, storage: FilesystemStorage) -> None:
        trust = Trust()
        registry = Registry(storage, trust=trust)
        digest = self.push(registry, b"data")
        file = storage.local_path(paths.blob(digest))
        trust.grant(digest, identity(file.stat()), now() - 100)
        registry.blobs.confirm("a", digest)
        seen_at = trust.seen_at(digest, identity(file.stat()))
        assert seen_at is not None
        assert now() - seen_at >= 100

    def test_a_push_onto_what_is_there_makes_no_trust(self, storage: FilesystemStorage) -> None:
        digest = self.push(Registry(storage), b"data")
        registry = Registry(storage)
        self.push(registry, b"data")
        assert not registry.verifier.trusts(digest)
