"""From a URL to a machine that runs, and what can be seen of it on the way."""

import hashlib
import json
import subprocess
from pathlib import Path

from demo.server import serve_folder
from tests.e2e.resources import cluster_image, disk, machine, operation, upload_image
from tests.support.product import Product
from tests.support.waiting import eventually

USER_DATA = '#cloud-config\nhostname: renamed\nruncmd:\n  - echo "DVCR-GUEST marker=$((6 * 7))" > /dev/console\n'


def _console(product: Product, name: str) -> str:
    return product.dvcr("logs", f"vm/{name}", check=False).stdout


def test_from_a_url_to_a_running_machine_and_off_again(product: Product, guest: Path, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(guest.read_bytes()).hexdigest()
    with serve_folder(guest.parent) as server:
        product.apply(
            cluster_image("guest", f"{server}/{guest.name}", sha256=sha256),
            disk("root", image="guest"),
            machine("first", "root", user_data=USER_DATA),
        )
        image = product.wait_for_phase("cvmi", "guest", "Ready", "Failed")
    status = image["status"]
    assert status["phase"] == "Ready", status
    assert (status["progress"], status["format"], status["cdrom"]) == ("100%", "qcow2", False)
    assert status["target"]["registryURL"] == f"{product.registry}/cvmi/guest:{image['metadata']['uid']}"
    assert status["size"]["unpackedBytes"] == str(256 * 2**20)

    product.wait_for_phase("vmd", "root", "Ready")
    assert product.get("vmd", "root")["status"]["capacity"] in ("256Mi", str(256 * 2**20))
    product.wait_for_phase("vm", "first", "Running")
    eventually(lambda: "DVCR-GUEST marker=42" in _console(product, "first"), "the marker on the console", 60)
    output = _console(product, "first")
    assert "DVCR-GUEST hostname=renamed" in output
    assert "DVCR-GUEST boot=1" in output

    product.apply(operation("off", "Stop", "first"))
    product.wait_for_phase("vmop", "off", "Completed")
    assert product.get("vm", "first")["status"]["phase"] == "Stopped"

    # The disk now stands alone or continues from where it was: the second boot counts on from the first.
    product.apply(operation("on", "Start", "first"))
    product.wait_for_phase("vmop", "on", "Completed")
    product.wait_for_phase("vm", "first", "Running")
    eventually(lambda: "DVCR-GUEST boot=2" in _console(product, "first"), "the second boot", 60)

    product.dvcr("delete", "vm", "first")
    product.dvcr("delete", "vmd", "root")
    _image_is_an_artifact_that_exports_identically(product, guest, tmp_path)
    product.dvcr("delete", "cvmi", "guest")
    assert "guest" not in product.dvcr("image", "ls").stdout


def _image_is_an_artifact_that_exports_identically(product: Product, guest: Path, tmp_path: Path) -> None:
    raw = product.run(
        "skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{product.registry}/cvmi/guest:latest"
    ).stdout
    manifest = json.loads(raw)
    assert manifest["artifactType"] == "application/vnd.dvcr.disk.v1"
    assert {layer["mediaType"].split("+")[0] for layer in manifest["layers"]} == {"application/vnd.dvcr.disk.chunk.v1"}
    product.dvcr("image", "export", "cvmi/guest", tmp_path / "ours.raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", guest, tmp_path / "theirs.raw"], check=True)
    subprocess.run(["cmp", tmp_path / "ours.raw", tmp_path / "theirs.raw"], check=True)


def test_an_upload_becomes_an_image(product: Product, guest: Path) -> None:
    product.apply(upload_image("uploaded"))
    waiting = product.wait_for_phase("vmi", "uploaded", "WaitForUserUpload")
    command = waiting["status"]["uploadCommand"].split()
    assert command[0] == "curl"
    assert command[2:] == ["-T", "example.iso"]
    product.run("curl", "-sSf", command[1], "-T", guest)
    status = product.wait_for_phase("vmi", "uploaded", "Ready", "Failed")["status"]
    assert (status["phase"], status["format"]) == ("Ready", "qcow2")
    product.dvcr("delete", "vmi", "uploaded")


def test_kubectl_works_with_the_kubeconfig(product: Product, tmp_path: Path) -> None:
    manifest = tmp_path / "disk.json"
    manifest.write_text(json.dumps(disk("plain", size="1Gi")))
    assert "created" in product.run("kubectl", "apply", "-f", manifest).stdout
    product.wait_for_phase("vmd", "plain", "Ready")
    table = product.run("kubectl", "get", "vmd").stdout.splitlines()
    assert table[0].split() == ["NAME", "PHASE", "CAPACITY", "AGE"]
    assert table[1].split()[:3] == ["plain", "Ready", "1Gi"]
    assert "Kind:         VirtualMachineDisk" in product.run("kubectl", "describe", "vmd", "plain").stdout
    assert "unchanged" in product.run("kubectl", "apply", "-f", manifest).stdout
    product.run("kubectl", "delete", "vmd", "plain")
    assert product.run("kubectl", "get", "vmd", "plain", check=False).returncode == 1
