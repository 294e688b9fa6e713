"""Sources of every kind, from resources and from the command line of the running product."""

import base64
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings
from tests.e2e.resources import API, disk
from tests.support.container_images import gzipped, push_image, tar
from tests.support.file_server import FileServer, serving
from tests.support.product import Product
from tests.support.waiting import eventually

MIB = 2**20
RAW = (bytes(510) + b"\x55\xaa") + random.Random(9).randbytes(6 * MIB - 512)


def image(kind: str, name: str, data_source: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name} | ({} if kind.startswith("Cluster") else {"namespace": "default"})
    return {"apiVersion": API, "kind": kind, "metadata": metadata, "spec": {"dataSource": data_source}}


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with serving(RAW) as state:
        yield state


@pytest.fixture(scope="module")
def container_disk(product: Product) -> str:
    """A containerDisk in the product's own registry."""
    client = RegistryClient.from_settings(ClientSettings(url=f"http://{product.registry}"))
    push_image(client.repository("people/disk"), [gzipped(tar(("disk/", None), ("disk/disk.raw", RAW)))], "1")
    return f"{product.registry}/people/disk:1"


def test_http_with_the_credentials_of_a_secret(product: Product, server: FileServer) -> None:
    http = {"url": server.url, "secretRef": {"name": "source", "namespace": "default"}}
    product.apply(image("ClusterVirtualMachineImage", "guarded", {"type": "HTTP", "http": http}))
    assert "SecretNotFound" in json.dumps(product.wait_for_phase("cvmi", "guarded", "Pending"))
    values = {"username": "me", "password": "hunter2", "headers": "X-Token: abc"}
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    metadata = {"name": "source", "namespace": "default"}
    product.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
    product.wait_for_phase("cvmi", "guarded", "Ready")
    assert server.requests[-1]["Authorization"] == "Basic bWU6aHVudGVyMg=="
    assert server.requests[-1]["X-Token"] == "abc"
    assert "hunter2" not in json.dumps(product.get("cvmi", "guarded"))
    assert "hunter2" not in (product.data.parent / f"{product.data.name}.up.log").read_text()


def test_container_disk_image_of_it_and_disk_of_it(product: Product, container_disk: str, tmp_path: Path) -> None:
    source = {"type": "ContainerImage", "containerImage": {"image": container_disk}}
    copy = {"type": "VirtualMachineImage", "virtualMachineImage": {"name": "from-container", "namespace": "default"}}
    product.apply(
        image("ClusterVirtualMachineImage", "copied", copy),
        image("VirtualMachineImage", "from-container", source),
        {**disk("own-container"), "spec": {"persistentVolumeClaim": {}, "dataSource": source}},
    )
    product.wait_for_phase("vmi", "from-container", "Ready")
    status = product.wait_for_phase("cvmi", "copied", "Ready")["status"]
    assert status["size"]["unpackedBytes"] == str(len(RAW))
    product.wait_for_phase("vmd", "own-container", "Ready")
    product.dvcr("delete", "vmi", "from-container")
    product.dvcr("image", "export", status["target"]["registryURL"].partition("/")[2], tmp_path / "disk.raw")
    assert hashlib.sha256((tmp_path / "disk.raw").read_bytes()).digest() == hashlib.sha256(RAW).digest()
    product.dvcr("delete", "cvmi", "copied")
    product.dvcr("delete", "vmd", "own-container")
    eventually(
        lambda: "own-container" not in product.dvcr("get", "pvc", "-o", "name").stdout, "the disk's claim is gone"
    )


def test_command_line(product: Product, container_disk: str, server: FileServer) -> None:
    product.dvcr("image", "import", f"docker://{container_disk}", "cli/container", "--plain-http")
    described = json.loads(product.dvcr("image", "inspect", "cli/container", "--json").stdout)
    assert (described["virtualSize"], described["source"]["origin"]) == (len(RAW), f"docker://{container_disk}")
    artifact = f"docker://{product.registry}/cli/container"
    product.dvcr("image", "import", artifact, "cli/again", "--plain-http")
    assert json.loads(product.dvcr("image", "inspect", "cli/again", "--json").stdout)["virtualSize"] == len(RAW)
    product.dvcr("image", "import", server.url, "cli/http", "--header", "X-Token: t", "--username", "me")
    assert server.requests[-1]["X-Token"] == "t"


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["nothing.img"], "names no source; use http://"),
        ([__file__], "dvcr image upload"),
        (["ftp://example.com/x"], "is no kind of source"),
        (["s3://bucket"], "is no s3://BUCKET/KEY"),
        (["docker://localhost:1/a", "--header", "a: b"], "--header does not go with docker sources"),
        (["http://localhost:1/a", "--platform", "linux/amd64"], "--platform does not go with http sources"),
        (["http://localhost:1/a", "--header", "nonsense"], "is not `Name: value`"),
    ],
)
def test_wrong_use_is_told_what_to_do(product: Product, arguments: list[str], advice: str) -> None:
    done = product.dvcr("image", "import", *arguments, "cli/wrong", check=False)
    assert done.returncode != 0
    assert advice in " ".join(done.stderr.split())
