"""`dvcr image upload`: a file becomes an image; what goes wrong is told."""

import hashlib
import http.client
import signal
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.e2e.resources import API, cluster_image
from tests.support.product import BIN, Product
from tests.support.waiting import eventually


def _upload(product: Product, *arguments: str | Path) -> tuple[int, str, str]:
    done = product.dvcr("image", "upload", *arguments, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_file_becomes_an_image(product: Product, guest: Path) -> None:
    code, out, err = _upload(product, guest, "--name", "sent")
    assert (code, out.startswith("vmi/sent is Ready: qcow2, 256Mi (")) == (0, True), err
    image = product.get("vmi", "sent")
    sha256 = hashlib.sha256(guest.read_bytes()).hexdigest()
    assert image["spec"]["dataSource"] == {"type": "Upload", "upload": {"checksum": {"sha256": sha256}}}
    assert image["status"]["phase"] == "Ready"
    code, _, err = _upload(product, guest, "--name", "sent")
    assert (code, "vmi/sent is Ready already" in err) == (1, True)
    product.dvcr("delete", "vmi", "sent")


def test_an_interrupted_upload_goes_on_by_the_same_command(product: Product, guest: Path, tmp_path: Path) -> None:
    """Begun by another client, waited for, left with Ctrl-C, and ended by the same command."""
    other = tmp_path / "other.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", other, "1M"], check=True)
    content = guest.read_bytes()
    checksum = {"sha256": hashlib.sha256(content).hexdigest()}
    spec = {"dataSource": {"type": "Upload", "upload": {"checksum": checksum}}}
    product.apply(
        {"apiVersion": API, "kind": "ClusterVirtualMachineImage", "metadata": {"name": "resumed"}, "spec": spec}
    )
    status = product.wait_for_phase("cvmi", "resumed", "WaitForUserUpload")["status"]
    url = urlsplit(status["imageUploadURLs"]["external"])

    code, _, err = _upload(product, other, "--name", "resumed", "--cluster")
    assert (code, "cvmi/resumed waits for another file" in err) == (1, True), err

    writer = http.client.HTTPConnection(str(url.hostname), url.port)
    writer.putrequest("PUT", url.path)
    writer.putheader("Content-Length", str(len(content)))
    writer.endheaders(content[: len(content) // 2])
    eventually(lambda: requests.get(url.geturl(), timeout=30).json()["state"] == "Receiving", "the upload has begun")
    log = tmp_path / "stderr"
    with log.open("w") as stderr:
        stopped = subprocess.Popen(
            [BIN / "dvcr", "image", "upload", guest, "--name", "resumed", "--cluster"],
            env=product.environment,
            stderr=stderr,
        )
    eventually(lambda: "by another request" in log.read_text(), "it waits until the other writer ends", 60)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(30) == 130
    assert "stopped; the same command goes on where it stopped" in log.read_text()
    writer.close()

    code, out, err = _upload(product, guest, "--name", "resumed", "--cluster")
    assert (code, out.startswith("cvmi/resumed is Ready: qcow2")) == (0, True), err
    product.dvcr("delete", "cvmi", "resumed")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (b"%PDF-1.7\n" + bytes(2**20), "this is no disk image: it looks like a PDF document"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_made(
    product: Product, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "disk.qcow2"
    if content is not None:
        path.write_bytes(content)
    code, _, err = _upload(product, path, "--name", "wrong")
    assert (code, problem in err) == (1, True), err
    assert "not found" in product.dvcr("get", "vmi", "wrong", check=False).stderr


def test_wrong_names_and_places_are_refused(product: Product, guest: Path) -> None:
    product.apply(cluster_image("taken", "http://127.0.0.1:9/disk.qcow2"))
    code, _, err = _upload(product, guest, "--name", "taken", "--cluster")
    assert (code, "its source is HTTP; choose another name, or: dvcr delete cvmi/taken" in err) == (1, True), err
    product.dvcr("delete", "cvmi", "taken")
    code, _, err = _upload(product, guest, "--name", "Bad_Name")
    assert (code, "metadata.name" in err) == (1, True), err
    code, _, err = _upload(product, guest, "--name", "x", "--kubeconfig", "/nowhere")
    assert (code, "start `dvcr up` or name one" in err) == (1, True), err
