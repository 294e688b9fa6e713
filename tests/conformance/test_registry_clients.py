"""Clients from distributions and from PyPI against the registry: skopeo, oras-py, podman, buildah."""

import json
import os
import tempfile
from pathlib import Path

import oras.client
import pytest

from dvcr.descriptor import DOCKER_MANIFEST, DOCKER_MANIFEST_LIST, IMAGE_INDEX
from dvcr.digest import Digest
from tests.conformance.clients import blobs, needs, run
from tests.support.registry import RegistryServer


@needs("skopeo")
def test_skopeo_copies_in_and_out(registry_server: RegistryServer, layout: Path, tmp_path: Path) -> None:
    image = f"docker://{registry_server.address}/skopeo/image"
    skopeo = ("skopeo", "--insecure-policy")
    run(*skopeo, "copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{layout}:v1", f"{image}:v1")
    raw = run(*skopeo, "inspect", "--raw", "--tls-verify=false", f"{image}:v1")
    index = json.loads((layout / "index.json").read_text())
    assert str(Digest.of(raw.encode())) == index["manifests"][0]["digest"]
    run(*skopeo, "copy", "--preserve-digests", "--src-tls-verify=false", f"{image}:v1", f"oci:{tmp_path}/out:v1")
    assert blobs(tmp_path / "out") == blobs(layout)
    run(*skopeo, "copy", "--preserve-digests", "--src-tls-verify=false", f"{image}:v1", f"dir:{tmp_path}/dir")
    run(*skopeo, "copy", "--preserve-digests", "--dest-tls-verify=false", f"dir:{tmp_path}/dir", f"{image}-again:v2")
    run(
        *skopeo,
        "copy",
        "--preserve-digests",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        f"{image}:v1",
        f"{image}-across:v1",
    )
    tags = json.loads(run(*skopeo, "list-tags", "--tls-verify=false", image))
    assert tags["Tags"] == ["v1"]
    run(*skopeo, "delete", "--tls-verify=false", f"{image}:v1")
    assert json.loads(run(*skopeo, "list-tags", "--tls-verify=false", image))["Tags"] == []


@needs("skopeo")
def test_skopeo_keeps_images_of_docker(registry_server: RegistryServer, layout: Path, tmp_path: Path) -> None:
    image = f"docker://{registry_server.address}/skopeo/docker:v1"
    skopeo = ("skopeo", "--insecure-policy")
    run(*skopeo, "copy", "--format", "v2s2", "--dest-tls-verify=false", f"oci:{layout}:v1", image)
    raw = run(*skopeo, "inspect", "--raw", "--tls-verify=false", image)
    assert json.loads(raw)["mediaType"] == DOCKER_MANIFEST
    run(*skopeo, "copy", "--src-tls-verify=false", image, f"dir:{tmp_path}/dir")
    assert (tmp_path / "dir/manifest.json").read_text() == raw


@pytest.mark.parametrize("chunked", [False, True])
def test_oras_pushes_and_pulls(
    registry_server: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "disk.img").write_bytes(os.urandom(5 * 2**20))
    monkeypatch.chdir(source)
    client = oras.client.OrasClient(insecure=True)
    target = f"{registry_server.address}/oras/artifact-{int(chunked)}:v1"
    client.push(target=target, files=["disk.img"], do_chunked=chunked)
    pulled = client.pull(target=target, outdir=str(tmp_path / "out"))
    assert Path(pulled[0]).read_bytes() == (source / "disk.img").read_bytes()
    assert client.get_tags(target) == ["v1"]
    assert client.get_manifest(target)["layers"][0]["size"] == 5 * 2**20
    client.delete_tags(target, ["v1"])
    assert client.get_tags(target) == []


@needs("podman")
def test_podman_pulls_and_pushes(registry_server: RegistryServer, layout: Path, tmp_path: Path) -> None:
    # vfs: needs neither overlay mounts nor what is in the user's own storage. A runroot has at most 50 characters.
    with tempfile.TemporaryDirectory(prefix="podman") as runroot:
        _podman_pulls_and_pushes(registry_server, layout, tmp_path / "store", Path(runroot))


def _podman_pulls_and_pushes(registry_server: RegistryServer, layout: Path, store: Path, runroot: Path) -> None:
    podman = ("podman", "--root", store, "--runroot", runroot, "--storage-driver", "vfs")
    image = f"{registry_server.address}/podman/image:v1"
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        f"oci:{layout}:v1",
        f"docker://{image}",
    )
    run(*podman, "pull", "--tls-verify=false", image)
    run(*podman, "push", "--tls-verify=false", image, f"docker://{image}-pushed")
    run("skopeo", "inspect", "--tls-verify=false", f"docker://{image}-pushed")


@needs("buildah")
@pytest.mark.parametrize(("form", "index_type"), [("oci", IMAGE_INDEX), ("v2s2", DOCKER_MANIFEST_LIST)])
def test_buildah_pushes_images_and_lists_of_them(
    registry_server: RegistryServer, layout: Path, tmp_path: Path, form: str, index_type: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="buildah") as runroot:
        buildah = ("buildah", "--root", str(tmp_path / "store"), "--runroot", runroot, "--storage-driver", "vfs")
        name = f"{registry_server.address}/buildah/{form}"
        image = run(*buildah, "pull", "--quiet", f"oci:{layout}:v1").strip()
        run(*buildah, "push", "--tls-verify=false", "--format", form, image, f"docker://{name}:v1")
        run(*buildah, "manifest", "create", "list")
        run(*buildah, "manifest", "add", "--tls-verify=false", "list", f"docker://{name}:v1")
        push = ("manifest", "push", "--all", "--tls-verify=false", "--format", form, "list", f"docker://{name}:all")
        run(*buildah, *push)
        raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}:all")
        assert json.loads(raw)["mediaType"] == index_type
        run(*buildah, "rmi", "--all", "--force")
        run(*buildah, "pull", "--tls-verify=false", f"docker://{name}:all")
