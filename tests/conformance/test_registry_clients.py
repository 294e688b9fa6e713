"""Real clients against the registry: skopeo, oras-py, podman."""

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import oras.client
import pytest

from dvcr.descriptor import IMAGE_MANIFEST
from dvcr.digest import Digest
from tests.support.registry import RegistryServer


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI image layout with an image of two layers, made by hand."""
    folder = tmp_path / "layout"
    (folder / "blobs/sha256").mkdir(parents=True)

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = Digest.of(data)
        (folder / "blobs/sha256" / digest.hex).write_bytes(data)
        return {"mediaType": media_type, "digest": str(digest), "size": len(data)}

    layers, diff_ids = [], []
    for number in range(2):
        archive = tmp_path / f"{number}.tar"
        content = tmp_path / f"file{number}"
        content.write_bytes(os.urandom(3 * 2**20))
        with tarfile.open(archive, "w") as tar:
            tar.add(content, content.name)
        layers.append(blob(archive.read_bytes(), "application/vnd.oci.image.layer.v1.tar"))
        diff_ids.append(layers[-1]["digest"])
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}, "config": {}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    }
    entry = blob(json.dumps(manifest).encode(), IMAGE_MANIFEST)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def blobs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "blobs/sha256").iterdir()}


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
