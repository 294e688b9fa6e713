"""`dvcr image copy` between repositories and registries: what is moved, what it looks like there, and who may."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvcr.artifact.store import fetch, publish
from dvcr.client.copy import copy, plan
from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.config import ClientSettings
from dvcr.descriptor import IMAGE_INDEX, IMAGE_MANIFEST
from dvcr.digest import Digest
from dvcr.errors import RegistryError
from tests.support.access import guarded_registry
from tests.support.artifacts import CHUNK, noise, push
from tests.support.image_command import ImageCommand
from tests.support.registry import RegistryServer

DISK = noise(CHUNK, 1) + bytes(CHUNK) + noise(CHUNK, 2) + noise(100, 3)
CHANGED = DISK[:-100] + noise(100, 4)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[RegistryServer]:
    """Another registry, which asks for a password."""
    (tmp_path / "other").mkdir()
    with guarded_registry(tmp_path / "other") as server:
        yield server


def repository(server: RegistryServer, name: str, **login: str) -> Repository:
    return RegistryClient.from_settings(ClientSettings.model_validate({"url": server.url} | login)).repository(name)


def stored(at: Repository, disk: bytes = DISK, tag: str = "1") -> Digest:
    return publish(at, push(at, disk), [tag])


def test_only_what_is_missing_is_sent(registry_server: RegistryServer, other: RegistryServer) -> None:
    source = repository(registry_server, "copy/missing")
    target = repository(other, "mine/disk", username="all", password="everything")
    digest = stored(source)
    progress: list[int] = []
    what = plan(source, "1")
    copied = copy(source, target, what, "one", same_registry=False, on_progress=progress.append)
    assert (copied.digest, copied.sent_blobs) == (digest, 4)
    assert copied.sent_bytes == copied.total_bytes == sum(progress)
    assert target.manifest("one").body == source.manifest("1").body
    assert target.manifest("one").media_type == IMAGE_MANIFEST
    assert fetch(target, digest).image == fetch(source, digest).image

    again = copy(source, target, what, "one", same_registry=False, on_progress=lambda _: None)
    assert (again.sent_blobs, again.sent_bytes) == (0, 0)

    stored(source, CHANGED, "2")
    second = copy(source, target, plan(source, "2"), "two", same_registry=False, on_progress=lambda _: None)
    assert (second.sent_blobs, second.sent_bytes) == (1, 100), "the last chunk"


def test_within_a_registry_nothing_is_sent(registry_server: RegistryServer) -> None:
    source = repository(registry_server, "copy/here")
    target = repository(registry_server, "copy/there")
    digest = stored(source)
    copied = copy(source, target, plan(source, digest), "x", same_registry=True, on_progress=lambda _: None)
    assert (copied.sent_blobs, target.manifest("x").digest) == (0, digest)


def test_an_interrupted_copy_goes_on_with_what_is_missing(
    registry_server: RegistryServer, other: RegistryServer
) -> None:
    source = repository(registry_server, "copy/interrupted")
    target = repository(other, "mine/again", username="all", password="everything")
    stored(source)
    what = plan(source, "1")
    first = next(blob for blob in what.blobs.values() if blob.size_bytes == CHUNK)
    target.push_blob(first.digest, source.read_blob(first.digest))
    copied = copy(source, target, what, "1", same_registry=False, on_progress=lambda _: None)
    assert copied.sent_bytes == copied.total_bytes - CHUNK


def test_a_blob_that_is_missing_at_the_source_leaves_no_manifest(
    registry_server: RegistryServer, other: RegistryServer
) -> None:
    source = repository(registry_server, "copy/broken")
    target = repository(other, "mine/unbroken", username="all", password="everything")
    stored(source, noise(CHUNK, 77))
    what = plan(source, "1")
    lost = next(blob for blob in what.blobs.values() if blob.size_bytes == CHUNK)
    source.delete_blob(lost.digest)
    with pytest.raises(RegistryError):
        copy(source, target, what, "1", same_registry=False, on_progress=lambda _: None)
    assert target.tags() == []


def test_an_index_brings_its_children(registry_server: RegistryServer) -> None:
    source, target = repository(registry_server, "copy/index"), repository(registry_server, "copy/index-copy")
    children = [stored(source, noise(100, seed), f"child-{seed}") for seed in (1, 2)]
    manifests = [
        {"mediaType": IMAGE_MANIFEST, "digest": str(child), "size": len(source.manifest(child).body)}
        for child in children
    ]
    body = json.dumps({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": manifests}).encode()
    digest = source.put_manifest("all", body, IMAGE_INDEX)
    copied = copy(source, target, plan(source, "all"), "all", same_registry=True, on_progress=lambda _: None)
    assert copied.digest == digest == target.manifest("all").digest
    assert [target.manifest(child).digest for child in children] == children


def test_the_command_logs_in_as_docker_login_left_it(
    registry_server: RegistryServer, other: RegistryServer, tmp_path: Path
) -> None:
    digest = stored(repository(registry_server, "copy/command"))
    name = f"{other.address}/mine/command:9"
    logins = tmp_path / "docker"
    logins.mkdir()
    dvcr = ImageCommand(registry_server.url, tmp_path / "scratch", DOCKER_CONFIG=str(logins))
    refused = dvcr.run("copy", "copy/command:1", name, "--plain-http")
    assert refused.returncode == 1
    assert f"docker login {other.address}" in refused.stderr

    auth = base64.b64encode(b"all:everything").decode()
    (logins / "config.json").write_text(json.dumps({"auths": {other.address: {"auth": auth}}}))
    assert dvcr.ok("copy", "copy/command:1", name, "--plain-http").strip() == f"{other.address}/mine/command@{digest}"
    assert dvcr.ok("copy", name, "copy/back", "--plain-http").strip() == f"copy/back@{digest}"
    assert "0 of 4 blobs sent" in dvcr.run("copy", name, "copy/back", "--plain-http").stderr


def test_wrong_names_and_logins_are_one_line(registry_server: RegistryServer, tmp_path: Path) -> None:
    logins = tmp_path / "config.json"
    dvcr = ImageCommand(registry_server.url, tmp_path / "scratch", DOCKER_CONFIG=str(tmp_path))
    none = f"x@sha256:{'0' * 64}"
    for arguments, word in (
        (("copy", "copy/none", "copy/x"), "copy/none"),
        (("copy", "copy/none", none), "under a tag"),
        (("copy", "BAD NAME", "copy/x"), "BAD NAME"),
        (("copy", "copy/none", "localhost:1/x", "--ca-file", "/nowhere"), "/nowhere"),
    ):
        done = dvcr.run(*arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert word in done.stderr
    for content, word in (
        ("{", "config.json"),
        ('{"auths": {"localhost:1": {"auth": "!"}}}', "log in again"),
        ('{"credHelpers": {"localhost:1": "pass"}}', "'docker-credential-pass' not found"),
    ):
        logins.write_text(content)
        done = dvcr.run("copy", "localhost:1/x", "copy/x")
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert word in done.stderr
