"""What a user does wrong, and what the product says and leaves behind: a reason, and nothing."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.server import serve_folder
from tests.e2e.resources import cluster_image, disk
from tests.support.cutting_server import serve_cut
from tests.support.product import Product


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that are wrong, each in its own way, and one that is right."""
    folder = tmp_path_factory.mktemp("files")
    content = folder / "content.raw"
    content.write_bytes(bytes(range(256)) * 4096 * 8)
    subprocess.run(
        ["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", content, folder / "good.qcow2"], check=True
    )
    whole = (folder / "good.qcow2").read_bytes()
    (folder / "truncated.qcow2").write_bytes(whole[: len(whole) // 2])
    backed = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", "-u", "backed.qcow2", "8M"]
    subprocess.run(backed, cwd=folder, check=True)
    (folder / "page.html").write_text("<!DOCTYPE html><html><body>Please log in</body></html>\n" * 200)
    return folder


@pytest.fixture(scope="module")
def url(files: Path) -> Iterator[str]:
    with serve_folder(files) as server:
        yield server


def _nothing_is_left(product: Product, name: str) -> None:
    assert f"cvmi/{name}" not in product.dvcr("image", "ls").stdout
    repositories = product.data / "registry"
    links = [p for p in repositories.rglob("*") if p.is_file() and f"cvmi/{name}/" in str(p)]
    assert links == []


@pytest.mark.parametrize(
    ("name", "file", "checksum", "reason", "hint"),
    [
        ("wrong-checksum", "good.qcow2", "0" * 64, "ChecksumMismatch", "0000"),
        ("absent", "absent.qcow2", "", "SourceNotFound", "404"),
        ("page", "page.html", "", "UnknownFormat", "HTML"),
        ("truncated", "truncated.qcow2", "", "TruncatedImage", ""),
        ("backed", "backed.qcow2", "", "BackingFileRefused", "backing file"),
    ],
)
def test_a_bad_image_fails_with_its_reason_and_leaves_nothing(
    product: Product, url: str, name: str, file: str, checksum: str, reason: str, hint: str
) -> None:
    product.apply(cluster_image(name, f"{url}/{file}", **({"sha256": checksum} if checksum else {})))
    status = product.wait_for_phase("cvmi", name, "Failed", "Ready")["status"]
    assert (status["phase"], status.get("failureReason")) == ("Failed", reason)
    assert hint in status["failureMessage"]
    _nothing_is_left(product, name)
    product.dvcr("delete", "cvmi", name)


def test_a_connection_that_is_cut_for_good_fails_with_its_reason(product: Product, files: Path) -> None:
    with serve_cut(files / "good.qcow2", after_bytes=100_000) as url:
        product.apply(cluster_image("cut", url))
        status = product.wait_for_phase("cvmi", "cut", "Failed", "Ready", timeout_s=120)["status"]
    assert (status["phase"], status.get("failureReason")) == ("Failed", "SourceInterrupted")
    _nothing_is_left(product, "cut")
    product.dvcr("delete", "cvmi", "cut")


def test_a_disk_smaller_than_its_image_fails_with_both_sizes(product: Product, url: str) -> None:
    product.apply(cluster_image("eight", f"{url}/good.qcow2"), disk("small", image="eight", size="4Mi"))
    assert product.wait_for_phase("cvmi", "eight", "Ready", "Failed")["status"]["phase"] == "Ready"
    status = product.wait_for_phase("vmd", "small", "Failed")["status"]
    assert status["failureReason"] == "DiskSmallerThanImage"
    assert "4Mi" in status["failureMessage"]
    assert "8Mi" in status["failureMessage"]
    assert json.loads(product.dvcr("get", "pvc", "-o", "json").stdout)["items"] == []
    product.dvcr("delete", "vmd", "small")
    product.dvcr("delete", "cvmi", "eight")


def _unknown_field() -> dict[str, object]:
    bad = disk("typo", size="1Gi")
    bad["spec"]["sizee"] = "1Gi"
    return bad


def _second_source() -> dict[str, object]:
    bad = cluster_image("two", "http://127.0.0.1/x")
    bad["spec"]["dataSource"]["clusterVirtualMachineImage"] = {"name": "other"}
    return bad


def _bad_url() -> dict[str, object]:
    return cluster_image("bad-url", "ftp://example.com/x")


def _no_size() -> dict[str, object]:
    return disk("empty")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (_unknown_field, "spec.sizee"),
        (_second_source, "spec.dataSource"),
        (_bad_url, "spec.dataSource.http.url"),
        (_no_size, "spec.persistentVolumeClaim.size"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_path_of_the_field(
    product: Product, make: Callable[[], dict[str, object]], field: str
) -> None:
    refused = product.dvcr("apply", "-f", "-", stdin=json.dumps(make()), check=False)
    assert refused.returncode == 1
    assert field in refused.stderr
    assert "Traceback" not in refused.stderr
