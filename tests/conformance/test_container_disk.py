"""`dvcr image export --to containerdisk`, as the field's tools and KubeVirt see it."""

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from dvcr.artifact.store import publish
from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings
from tests.conformance.clients import blobs, needs, run
from tests.support.artifacts import CHUNK, noise, push, text
from tests.support.image_command import ImageCommand
from tests.support.registry import RegistryServer

DISK = noise(CHUNK, 1) + bytes(3 * CHUNK) + text(CHUNK, 2)


@pytest.fixture(scope="module")
def image(registry_server: RegistryServer) -> str:
    name = "containerdisk/source"
    repository = RegistryClient.from_settings(ClientSettings(url=registry_server.url)).repository(name)
    publish(repository, push(repository, DISK), ["latest"])
    return name


@needs("skopeo")
@pytest.mark.parametrize(("image_format", "file"), [("qcow2", "disk/disk.qcow2"), ("raw", "disk/disk.img")])
def test_the_image_holds_one_disk_that_qemu_may_read(
    image: str, image_format: str, file: str, registry_server: RegistryServer, tmp_path: Path
) -> None:
    dvcr = ImageCommand(registry_server.url, tmp_path / "scratch")
    target = f"containerdisk/{image_format}"
    arguments = ("export", image, f"{target}:1", "--to", "containerdisk", "-f", image_format, "--arch", "arm64")
    pushed = dvcr.ok(*arguments).strip()
    assert dvcr.ok(*arguments).strip() == pushed, "the same disk, the same digest"
    assert list((tmp_path / "scratch").iterdir()) == []

    remote = f"docker://{registry_server.address}/{target}:1"
    inspected = json.loads(run("skopeo", "inspect", "--tls-verify=false", remote))
    assert pushed == f"{target}@{inspected['Digest']}"
    assert (inspected["Architecture"], inspected["Os"], len(inspected["Layers"])) == ("arm64", "linux", 1)

    layout = tmp_path / "layout"
    run(
        "skopeo",
        "copy",
        "-q",
        "--preserve-digests",
        "--override-arch=arm64",
        "--src-tls-verify=false",
        remote,
        f"oci:{layout}:x",
    )
    stored = blobs(layout)
    layer = stored[inspected["Layers"][0].partition(":")[2]]
    manifest = json.loads(stored[inspected["Digest"].partition(":")[2]])
    config = json.loads(stored[manifest["config"]["digest"].partition(":")[2]])
    assert config["rootfs"]["diff_ids"] == inspected["Layers"], "the layer is a plain tar"
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        entries = archive.getmembers()
        archive.extractall(tmp_path / "root", filter="tar")
    told = [(entry.name, entry.uid, entry.gid, oct(entry.mode), entry.mtime) for entry in entries]
    assert told == [("disk", 107, 107, "0o555", 0), (file, 107, 107, "0o440", 0)]
    source = tmp_path / "source.raw"
    source.write_bytes(DISK)
    command = ["qemu-img", "compare", "-q", "-f", "raw", "-F", image_format, str(source), str(tmp_path / "root" / file)]
    subprocess.run(command, check=True)


@needs("buildah")
def test_buildah_mounts_it(image: str, registry_server: RegistryServer, tmp_path: Path) -> None:
    dvcr = ImageCommand(registry_server.url, tmp_path / "scratch")
    dvcr.ok("export", image, "containerdisk/mounted", "--to", "containerdisk")
    storage = ("buildah", "--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run"), "--storage-driver=vfs")
    reference = f"{registry_server.address}/containerdisk/mounted"
    container = run(*storage, "from", "--tls-verify=false", f"docker://{reference}").strip()
    root = Path(run(*storage, "mount", container).strip())
    try:
        status = (root / "disk/disk.qcow2").stat()
        assert (status.st_uid, status.st_gid, oct(status.st_mode)) == (107, 107, "0o100440")
        assert [path.name for path in root.iterdir() if path.is_dir() and any(path.iterdir())] == ["disk"]
    finally:
        run(*storage, "umount", container)


def test_wrong_uses_are_one_line(image: str, registry_server: RegistryServer, tmp_path: Path) -> None:
    dvcr = ImageCommand(registry_server.url, tmp_path / "scratch")
    for arguments, word in (
        ((image, "x", "-f", "vmdk"), "qcow2 or raw, not vmdk"),
        ((image, f"x@sha256:{'0' * 64}"), "under a tag"),
        ((image, "x", "--compress", "brotli"), "none, zlib, zstd"),
        (("containerdisk/none", "x"), "containerdisk/none"),
    ):
        done = dvcr.run("export", *arguments, "--to", "containerdisk")
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert word in done.stderr
