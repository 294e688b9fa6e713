"""A machine changes its disk; the disk becomes an image while the machine runs; another machine starts from that."""

from pathlib import Path
from typing import Any

import pytest

from demo.server import serve_folder
from dvcr.artifact.image import DiskImage
from dvcr.artifact.store import fetch
from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings
from tests.e2e.resources import API, cluster_image, disk, machine, operation
from tests.support.product import Product
from tests.support.waiting import eventually


def golden_image(name: str, source: str) -> dict[str, Any]:
    reference = {"name": source, "namespace": "default"}
    return {
        "apiVersion": API,
        "kind": "ClusterVirtualMachineImage",
        "metadata": {"name": name},
        "spec": {"dataSource": {"type": "VirtualMachineDisk", "virtualMachineDisk": reference}},
    }


def image_of(product: Product, name: str) -> DiskImage:
    client = RegistryClient.from_settings(ClientSettings(url=f"http://{product.registry}"))
    return fetch(client.repository(f"cvmi/{name}"), "latest").image


def boots(product: Product, name: str, count: int) -> None:
    marker = f"DVCR-GUEST boot={count}"
    eventually(lambda: marker in product.dvcr("logs", f"vm/{name}", check=False).stdout, marker, 90)


@pytest.mark.timeout(400)
def test_a_second_machine_goes_on_from_what_the_first_one_wrote(product: Product, guest: Path) -> None:
    with serve_folder(guest.parent) as server:
        product.apply(
            cluster_image("gold-base", f"{server}/{guest.name}"),
            disk("gold-root", image="gold-base"),
            machine("gold-first", "gold-root", run_policy="Manual"),
        )
        product.wait_for_phase("cvmi", "gold-base", "Ready", "Failed")
    product.apply(operation("gold-on", "Start", "gold-first"))
    boots(product, "gold-first", 1)
    product.apply(golden_image("golden", "gold-root"))
    golden = product.wait_for_phase("cvmi", "golden", "Ready", "Failed")
    assert golden["status"]["phase"] == "Ready", golden["status"]
    assert product.get("vm", "gold-first")["status"]["phase"] == "Running", "the machine goes on"

    base, made = image_of(product, "gold-base"), image_of(product, "golden")
    old = {chunk.descriptor.digest for chunk in base.chunks}
    new = [chunk.index for chunk in made.chunks if chunk.descriptor.digest not in old]
    assert made.virtual_size_bytes == base.virtual_size_bytes
    assert made.source.origin == "VirtualMachineDisk default/gold-root"
    assert 0 < len(new) < len(made.chunks) / 2, f"chunks {new} of {len(made.chunks)} were sent"

    product.apply(disk("gold-copy", image="golden"), machine("gold-second", "gold-copy"))
    boots(product, "gold-second", 2)
    product.apply(operation("gold-off", "Stop", "gold-first"))
    product.apply(golden_image("golden-rest", "gold-root"))
    rest = product.wait_for_phase("cvmi", "golden-rest", "Ready", "Failed")
    assert rest["status"]["phase"] == "Ready", rest["status"]
    for kind, name in (
        ("vm", "gold-second"), ("vmd", "gold-copy"), ("vm", "gold-first"), ("vmd", "gold-root"),
        ("cvmi", "golden"), ("cvmi", "golden-rest"), ("cvmi", "gold-base"),
    ):  # fmt: skip
        product.dvcr("delete", kind, name)
