"""The disk artifact is an OCI artifact to other people's clients."""

import json
import subprocess
from pathlib import Path

import oras.client
import pytest

from dvcr.artifact.store import fetch, publish
from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.config import ClientSettings
from tests.support.artifacts import CHUNK, noise, push, text
from tests.support.registry import RegistryServer


@pytest.fixture(scope="module", params=["disk", "zeroes"])
def repository(request: pytest.FixtureRequest, registry_server: RegistryServer) -> Repository:
    client = RegistryClient.from_settings(ClientSettings(url=registry_server.url))
    repository = client.repository(f"conformance/{request.param}")
    disk = text(CHUNK) + bytes(CHUNK) + noise(CHUNK) + b"end" if request.param == "disk" else bytes(CHUNK)
    publish(repository, push(repository, disk), ["uid", "latest"])
    return repository


def skopeo(*arguments: str) -> str:
    return subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def test_skopeo_reads_it(registry_server: RegistryServer, repository: Repository) -> None:
    reference = f"docker://{registry_server.address}/{repository.name}:uid"
    raw = skopeo("inspect", "--raw", "--tls-verify=false", reference)
    assert raw.encode() == repository.manifest("uid").body
    assert json.loads(raw)["artifactType"] == "application/vnd.dvcr.disk.v1"


def test_skopeo_copies_it_whole(registry_server: RegistryServer, repository: Repository, tmp_path: Path) -> None:
    there = f"docker://{registry_server.address}/{repository.name}"
    skopeo("copy", "--src-tls-verify=false", f"{there}:uid", f"oci:{tmp_path}/layout:uid")
    skopeo("copy", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:uid", f"{there}-copy:uid")
    client = RegistryClient.from_settings(ClientSettings(url=registry_server.url))
    copy, original = fetch(client.repository(f"{repository.name}-copy"), "uid"), fetch(repository, "uid")
    assert (copy.image, copy.digest) == (original.image, original.digest)


def test_oras_reads_it(registry_server: RegistryServer, repository: Repository) -> None:
    client = oras.client.OrasClient(hostname=registry_server.address, insecure=True)
    manifest = client.get_manifest(f"{registry_server.address}/{repository.name}:uid")
    assert manifest == json.loads(repository.manifest("uid").body)
