"""Clients written in Go against the registry: crane, oras, regctl, containerd."""

import json
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from dvcr.descriptor import DOCKER_MANIFEST, DOCKER_MANIFEST_LIST
from tests.conformance.clients import run
from tests.support.go_tool import CONTAINERD, CRANE, CTR, ORAS, REGCTL, build
from tests.support.registry import RegistryServer
from tests.support.waiting import eventually

BIG_BYTES = 5 * 2**30 + 2**20  # S3 takes 5 GiB in one part, and 32 bits hold less than this

Client = Callable[..., str]

pytestmark = pytest.mark.timeout(600)  # the first run builds the programs


@pytest.fixture
def client(tmp_path: Path) -> Callable[[str], Client]:
    """Makes a command of a Go program, with a home of its own."""

    def make(package: str) -> Client:
        program = build(package)
        return lambda *arguments: run(program, *arguments, HOME=str(tmp_path), REGCTL_CONFIG=str(tmp_path / "regctl"))

    return make


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(3 * 2**20))
    return path


def tags(server: RegistryServer, repository: str) -> list[str]:
    found: list[str] = requests.get(f"{server.url}/v2/{repository}/tags/list", timeout=10).json()["tags"]
    return found


def test_crane(registry_server: RegistryServer, client: Callable[[str], Client], disk: Path, tmp_path: Path) -> None:
    crane, root = client(CRANE), f"{registry_server.address}/crane"
    with tarfile.open(tmp_path / "layer.tar", "w") as tar:
        tar.add(disk, "disk/disk.img")
    # From nothing, crane makes images of Docker's types.
    crane("append", "--new_layer", str(tmp_path / "layer.tar"), "--new_tag", f"{root}/a:v1")
    assert json.loads(crane("manifest", f"{root}/a:v1"))["mediaType"] == DOCKER_MANIFEST
    crane("copy", f"{root}/a:v1", f"{root}/b:v1")
    digest = crane("digest", f"{root}/b:v1").strip()
    assert digest == crane("digest", f"{root}/a:v1").strip()
    crane("validate", "--remote", f"{root}/b:v1")
    crane("pull", "--format=oci", f"{root}/b:v1", str(tmp_path / "pulled"))
    crane("push", str(tmp_path / "pulled"), f"{root}/pushed:v1")
    crane("tag", f"{root}/b:v1", "v2")
    assert crane("ls", f"{root}/b").split() == ["v1", "v2"]
    assert {"crane/a", "crane/b"} <= set(crane("catalog", registry_server.address).split())
    crane("index", "append", "--docker-empty-base", "--tag", f"{root}/list:v1", "--manifest", f"{root}/a:v1")
    assert json.loads(crane("manifest", f"{root}/list:v1"))["mediaType"] == DOCKER_MANIFEST_LIST
    crane("validate", "--remote", f"{root}/list:v1")
    crane("delete", f"{root}/b@{digest}")
    assert crane("ls", f"{root}/b") == ""


def test_oras(registry_server: RegistryServer, client: Callable[[str], Client], disk: Path, tmp_path: Path) -> None:
    oras, root = client(ORAS), f"{registry_server.address}/oras-go"

    def plain(*arguments: str) -> str:
        return oras(*arguments, "--plain-http")

    plain("push", "--disable-path-validation", f"{root}/a:v1,v2", f"{disk}:application/octet-stream")
    plain("attach", "--disable-path-validation", "--artifact-type", "x/signature", f"{root}/a:v1", str(disk))
    assert plain("repo", "tags", f"{root}/a").split() == ["v1", "v2"]
    oras("copy", "--recursive", "--from-plain-http", "--to-plain-http", f"{root}/a:v1", f"{root}/b:v1")
    for name in ("a", "b"):
        found = json.loads(plain("discover", "--format", "json", f"{root}/{name}:v1"))["referrers"]
        assert [item["artifactType"] for item in found] == ["x/signature"]
        assert json.loads(plain("discover", "--format", "json", "--artifact-type", "x/y", f"{root}/{name}:v1"))[
            "referrers"
        ] in ([], None)
    layer = json.loads(plain("manifest", "fetch", f"{root}/b:v1"))["layers"][0]["digest"]
    plain("blob", "fetch", "--output", str(tmp_path / "fetched"), f"{root}/b@{layer}")
    assert (tmp_path / "fetched").read_bytes() == disk.read_bytes()
    plain("manifest", "delete", "--force", f"{root}/b:v1")
    assert tags(registry_server, "oras-go/b") == []
    plain("blob", "delete", "--force", f"{root}/b@{layer}")
    assert "oras-go/a" in plain("repo", "ls", registry_server.address).split()


def test_regctl(registry_server: RegistryServer, client: Callable[[str], Client], disk: Path, tmp_path: Path) -> None:
    regctl, root = client(REGCTL), f"{registry_server.address}/regctl"
    regctl("registry", "set", "--skip-check", "--tls", "disabled", registry_server.address)
    regctl("artifact", "put", "--artifact-type", "x/disk", "--file", str(disk), f"{root}/a:v1")
    regctl("artifact", "put", "--artifact-type", "x/sbom", "--file", str(disk), "--subject", f"{root}/a:v1")
    regctl("image", "copy", "--referrers", f"{root}/a:v1", f"{root}/b:v1")
    listed = json.loads(regctl("artifact", "list", "--format", "{{json .}}", f"{root}/b:v1"))
    assert [item["artifactType"] for item in listed["descriptors"]] == ["x/sbom"]
    fallback = tags(registry_server, "regctl/b")
    assert fallback == ["v1"], "the client kept the referrers itself, as for a registry without the API"
    pulled = subprocess.run(
        [build(REGCTL), "artifact", "get", f"{root}/b:v1"],
        capture_output=True,
        check=True,
        env=os.environ | {"HOME": str(tmp_path), "REGCTL_CONFIG": str(tmp_path / "regctl")},
    )
    assert pulled.stdout == disk.read_bytes()
    assert regctl("image", "digest", f"{root}/b:v1") == regctl("image", "digest", f"{root}/a:v1")
    regctl("image", "copy", f"{root}/b:v1", f"{root}/b:v2")
    regctl("tag", "delete", f"{root}/b:v1")
    assert regctl("tag", "ls", f"{root}/b").split() == ["v2"]
    regctl("manifest", "delete", "--force-tag-dereference", f"{root}/b:v2")
    assert tags(registry_server, "regctl/b") == []
    assert "regctl/a" in regctl("repo", "ls", registry_server.address).split()


@pytest.fixture
def ctr() -> Iterator[Client]:
    """containerd's own client, with a daemon behind it: it pulls and pushes through the daemon's content store."""
    daemon, program = build(CONTAINERD), build(CTR)
    with tempfile.TemporaryDirectory(prefix="containerd") as folder:  # the path of a socket must be short
        root = Path(folder)
        (root / "config.toml").write_text(
            f'version = 3\nroot = "{root}/root"\nstate = "{root}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images",'
            ' "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]\n'
            f'[grpc]\naddress = "{root}/socket"\nuid = {os.getuid()}\ngid = {os.getgid()}\n'
        )
        with (
            (root / "log").open("w") as log,
            subprocess.Popen([daemon, "--config", root / "config.toml"], stdout=log, stderr=log) as process,
        ):
            try:
                eventually((root / "socket").exists, "containerd listens")
                yield lambda *arguments: run(program, "--address", f"{root}/socket", *arguments)
            finally:
                process.terminate()


def test_containerd(registry_server: RegistryServer, client: Callable[[str], Client], disk: Path, ctr: Client) -> None:
    root = f"{registry_server.address}/ctr"
    with tarfile.open(disk.with_suffix(".tar"), "w") as tar:
        tar.add(disk, "disk/disk.img")
    client(CRANE)("append", "--new_layer", str(disk.with_suffix(".tar")), "--new_tag", f"{root}/a:v1")
    # Content alone: to unpack it would take the right to mount.
    ctr("content", "fetch", "--plain-http", f"{root}/a:v1")
    assert re.search(rf"{root}/a:v1 +{re.escape(DOCKER_MANIFEST)}", ctr("images", "ls"))
    ctr("images", "tag", "--local", f"{root}/a:v1", f"{root}/b:v1")
    ctr("images", "push", "--local", "--plain-http", f"{root}/b:v1")
    assert tags(registry_server, "ctr/b") == ["v1"]
    manifest = requests.head(f"{registry_server.url}/v2/ctr/b/manifests/v1", timeout=10)
    digest = manifest.headers["Docker-Content-Digest"]
    fetched = ctr("content", "fetch-object", "--plain-http", f"{root}/b:v1", digest)
    assert json.loads(fetched)["mediaType"] == DOCKER_MANIFEST


@pytest.mark.slow
def test_a_blob_of_more_than_5_gib(fresh_registry: RegistryServer, client: Callable[[str], Client], disk: Path) -> None:
    oras, image = client(ORAS), f"{fresh_registry.address}/big:v1"
    with disk.open("r+b") as file:
        file.truncate(BIG_BYTES)  # random bytes, then a hole
    oras("push", "--plain-http", "--disable-path-validation", image, f"{disk}:application/octet-stream")
    layer = json.loads(oras("manifest", "fetch", "--plain-http", image))["layers"][0]
    assert layer["size"] == BIG_BYTES
    fetched = disk.with_suffix(".fetched")
    oras("blob", "fetch", "--plain-http", "--output", str(fetched), f"{fresh_registry.address}/big@{layer['digest']}")
    assert fetched.stat().st_size == BIG_BYTES  # the client has checked the digest
    with requests.get(
        f"{fresh_registry.url}/v2/big/blobs/{layer['digest']}", headers={"Range": "bytes=-1048577"}, timeout=60
    ) as tail:
        assert tail.headers["Content-Range"] == f"bytes {BIG_BYTES - 2**20 - 1}-{BIG_BYTES - 1}/{BIG_BYTES}"
        assert tail.content == bytes(2**20 + 1)
