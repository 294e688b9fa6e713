"""Clients that log in: skopeo, podman and oras-py against a registry that asks who is there."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import oras.client
import pytest

from tests.conformance.clients import blobs, needs, run
from tests.support.access import PASSWORDS, guarded_registry
from tests.support.registry import RegistryServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with guarded_registry(tmp_path_factory.mktemp("guarded")) as guarded:
        yield guarded


def login(program: str, server: RegistryServer, authfile: Path, user: str, password: str) -> int:
    command: list[str | Path] = [
        program,
        "login",
        "--tls-verify=false",
        "--authfile",
        authfile,
        "-u",
        user,
        "--password-stdin",
    ]
    return subprocess.run(
        [*command, server.address], input=password, text=True, capture_output=True, check=False
    ).returncode


@needs("skopeo")
def test_skopeo(server: RegistryServer, layout: Path, tmp_path: Path) -> None:
    authfile = tmp_path / "auth.json"
    assert login("skopeo", server, authfile, "root", "guess") != 0
    assert login("skopeo", server, authfile, "root", PASSWORDS["root"]) == 0
    skopeo = ("skopeo", "--insecure-policy")
    known, unknown = ("--authfile", authfile), ("--no-creds",)
    image = f"docker://{server.address}/team/skopeo:v1"
    run(*skopeo, "copy", "--preserve-digests", "--dest-tls-verify=false", *known, f"oci:{layout}:v1", image)
    run(*skopeo, "copy", "--preserve-digests", "--src-tls-verify=false", *known, image, f"oci:{tmp_path}/out:v1")
    assert blobs(tmp_path / "out") == blobs(layout)
    with pytest.raises(AssertionError, match=r"unauthorized|authentication required"):
        run(*skopeo, "inspect", "--tls-verify=false", *unknown, image)
    listed = run(*skopeo, "list-tags", "--tls-verify=false", *known, image.removesuffix(":v1"))
    assert json.loads(listed)["Tags"] == ["v1"]
    run(*skopeo, "delete", "--tls-verify=false", *known, image)


@needs("skopeo")
def test_skopeo_without_a_name(server: RegistryServer, layout: Path, tmp_path: Path) -> None:
    image = f"docker://{server.address}/public/skopeo:v1"
    alice = f"alice:{PASSWORDS['alice']}"
    skopeo = ("skopeo", "--insecure-policy")
    run(*skopeo, "copy", "--dest-tls-verify=false", "--dest-creds", alice, f"oci:{layout}:v1", image)
    run(*skopeo, "copy", "--src-tls-verify=false", "--src-no-creds", image, f"oci:{tmp_path}/out:v1")
    with pytest.raises(AssertionError, match=r"unauthorized|authentication required"):
        run(*skopeo, "copy", "--dest-tls-verify=false", "--dest-no-creds", f"oci:{layout}:v1", image)
    with pytest.raises(AssertionError, match="DENIED"):
        run(*skopeo, "delete", "--tls-verify=false", "--creds", alice, image)


@needs("podman")
def test_podman(server: RegistryServer, layout: Path, tmp_path: Path) -> None:
    authfile = tmp_path / "auth.json"
    image = f"{server.address}/team/podman:v1"
    assert login("podman", server, authfile, "alice", "guess") != 0
    assert login("podman", server, authfile, "alice", PASSWORDS["alice"]) == 0
    source, destination = f"oci:{layout}:v1", f"docker://{image}"
    run("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", "--authfile", authfile, source, destination)
    # vfs: needs neither overlay mounts nor what is in the user's own storage. A runroot has at most 50 characters.
    with tempfile.TemporaryDirectory(prefix="podman") as runroot:
        podman = ("podman", "--root", tmp_path / "store", "--runroot", runroot, "--storage-driver", "vfs")
        run(*podman, "pull", "--tls-verify=false", "--authfile", authfile, image)
        run(*podman, "push", "--tls-verify=false", "--authfile", authfile, image, f"{destination}-pushed")


def test_oras(server: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "disk.img").write_bytes(os.urandom(2**20))
    monkeypatch.chdir(tmp_path)
    client = oras.client.OrasClient(insecure=True, auth_backend="token")
    client.login(username="alice", password=PASSWORDS["alice"], hostname=server.address)
    target = f"{server.address}/team/oras:v1"
    client.push(target=target, files=["disk.img"])
    (pulled,) = client.pull(target=target, outdir=str(tmp_path / "out"))
    assert Path(pulled).read_bytes() == (tmp_path / "disk.img").read_bytes()
    assert client.get_tags(target) == ["v1"]
    # It would find alice's login in the configuration.
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "bob"))
    monkeypatch.setenv("HOME", str(tmp_path / "bob"))
    stranger = oras.client.OrasClient(insecure=True, auth_backend="token")
    stranger.login(username="bob", password=PASSWORDS["bob"], hostname=server.address)
    with pytest.raises(ValueError, match="Forbidden"):
        stranger.pull(target=target, outdir=str(tmp_path / "stolen"))
