"""What every registry does for the client: ours on a socket, and the one in memory that unit tests use."""

import itertools
import json
import os

import pytest

from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.config import ClientSettings
from dvcr.descriptor import IMAGE_MANIFEST
from dvcr.digest import Digest
from dvcr.errors import RegistryError
from tests.support.memory_registry import MemoryRegistry

_numbers = itertools.count()
DATA = os.urandom(3 * 2**20 + 17)
DIGEST = Digest.of(DATA)


@pytest.fixture(params=["memory", "server"])
def client(request: pytest.FixtureRequest) -> RegistryClient:
    if request.param == "memory":
        return MemoryRegistry().client()
    return RegistryClient.from_settings(ClientSettings(url=request.getfixturevalue("registry_url")))


@pytest.fixture
def repository(client: RegistryClient) -> Repository:
    return client.repository(f"contract/repository{next(_numbers)}")


def unique(size_bytes: int = 5000) -> tuple[Digest, bytes]:
    data = os.urandom(size_bytes)
    return Digest.of(data), data


def manifest_over(config: bytes) -> bytes:
    descriptor = {"mediaType": "application/x", "digest": str(Digest.of(config)), "size": len(config)}
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "artifactType": "application/x",
            "config": descriptor,
            "layers": [descriptor],
        }
    ).encode()


def test_it_answers(client: RegistryClient) -> None:
    client.ping()


def test_a_blob(repository: Repository) -> None:
    digest, data = unique(3 * 2**20 + 17)
    assert not repository.has_blob(digest)
    assert repository.push_blob(digest, data)
    assert repository.has_blob(digest)
    assert repository.read_blob(digest) == data
    assert b"".join(repository.open_blob(digest, len(data))) == data


def test_a_blob_of_sha512(repository: Repository) -> None:
    digest = Digest.of(DATA, "sha512")
    repository.push_blob(digest, DATA)
    assert repository.read_blob(digest) == DATA


@pytest.mark.parametrize(("offset", "length"), [(0, 10), (2**20 - 1, 2**20 + 2), (len(DATA) - 4, 10), (len(DATA), 1)])
def test_a_range(repository: Repository, offset: int, length: int) -> None:
    repository.push_blob(DIGEST, DATA)
    assert repository.read_blob(DIGEST, offset, length) == DATA[offset : offset + length]


def test_a_blob_of_no_bytes(repository: Repository) -> None:
    repository.push_blob(Digest.of(b""), b"")
    assert repository.read_blob(Digest.of(b"")) == b""


def test_a_blob_that_the_registry_knows_is_not_sent(client: RegistryClient, repository: Repository) -> None:
    digest, data = unique()
    assert repository.push_blob(digest, data)
    assert not repository.push_blob(digest, data)
    other = client.repository(f"contract/other{next(_numbers)}")
    assert not other.push_blob(digest, data)
    assert other.read_blob(digest) == data


def test_deleted_is_gone_at_once_and_twice_is_no_error(repository: Repository) -> None:
    digest, data = unique()
    repository.push_blob(digest, data)
    repository.delete_blob(digest)
    repository.delete_blob(digest)
    assert not repository.has_blob(digest)
    with pytest.raises(RegistryError) as caught:
        repository.read_blob(digest)
    assert (caught.value.code, caught.value.status) == ("BLOB_UNKNOWN", 404)
    with pytest.raises(RegistryError) as caught:
        list(repository.open_blob(digest, len(data)))
    assert caught.value.status == 404


def test_an_upload_in_pieces_that_another_client_finishes(repository: Repository) -> None:
    digest, data = unique(10_000)
    first = repository.begin_upload()
    assert first.size_bytes == 0
    first.append(data[:4000])
    second = repository.resume_upload(first.location)
    assert second.size_bytes == 4000
    second.append(memoryview(data)[4000:])
    assert second.size_bytes == 10_000
    second.commit(digest)
    assert repository.read_blob(digest) == data
    with pytest.raises(RegistryError) as caught:
        repository.resume_upload(second.location)
    assert (caught.value.code, caught.value.status) == ("BLOB_UPLOAD_UNKNOWN", 404)


def test_an_upload_that_begins_and_resumes_empty(repository: Repository) -> None:
    assert repository.resume_upload(repository.begin_upload().location).size_bytes == 0


def test_an_aborted_upload(repository: Repository) -> None:
    upload = repository.begin_upload()
    upload.append(b"abc")
    upload.abort()
    upload.abort()
    with pytest.raises(RegistryError) as caught:
        upload.append(b"def")
    assert caught.value.status == 404


def test_the_wrong_digest_is_refused(repository: Repository) -> None:
    upload = repository.begin_upload()
    upload.append(b"something else")
    with pytest.raises(RegistryError) as caught:
        upload.commit(DIGEST)
    assert (caught.value.code, caught.value.retryable) == ("DIGEST_INVALID", False)
    with pytest.raises(RegistryError):
        repository.push_blob(Digest.of(b"one"), b"two")


def test_a_manifest(repository: Repository) -> None:
    config = b"{}"
    repository.push_blob(Digest.of(config), config)
    body = manifest_over(config)
    digest = repository.put_manifest("v1", body, IMAGE_MANIFEST)
    assert digest == Digest.of(body)
    assert repository.put_manifest("v2", body, IMAGE_MANIFEST) == digest
    assert repository.put_manifest(digest, body, IMAGE_MANIFEST) == digest
    for reference in ("v1", "v2", digest, str(digest)):
        manifest = repository.manifest(reference)
        assert (manifest.media_type, manifest.digest, manifest.body) == (IMAGE_MANIFEST, digest, body)
    assert repository.tags() == ["v1", "v2"]
    repository.delete_manifest(digest)
    repository.delete_manifest(digest)
    assert repository.tags() == []
    with pytest.raises(RegistryError) as caught:
        repository.manifest("v1")
    assert (caught.value.code, caught.value.status) == ("MANIFEST_UNKNOWN", 404)


def test_a_manifest_whose_blobs_are_missing(repository: Repository) -> None:
    with pytest.raises(RegistryError) as caught:
        repository.put_manifest("v1", manifest_over(os.urandom(10)), IMAGE_MANIFEST)
    assert caught.value.code == "MANIFEST_BLOB_UNKNOWN"


def test_tags_of_nothing(repository: Repository) -> None:
    assert repository.tags() == []


def test_every_tag_and_repository_is_listed(client: RegistryClient, repository: Repository) -> None:
    repository.push_blob(Digest.of(b"{}"), b"{}")
    tags = sorted(f"tag-{number}" for number in range(25))
    for tag in tags:
        repository.put_manifest(tag, manifest_over(b"{}"), IMAGE_MANIFEST)
    assert repository.tags() == tags
    assert repository.name in list(client.repositories())


def test_the_digest_under_a_tag(repository: Repository) -> None:
    assert repository.find_digest("latest") is None
    digest, config = unique()
    repository.push_blob(digest, config)
    manifest = repository.put_manifest("latest", manifest_over(config), IMAGE_MANIFEST)
    assert repository.find_digest("latest") == manifest
    repository.delete_manifest(manifest)
    assert repository.find_digest("latest") is None
