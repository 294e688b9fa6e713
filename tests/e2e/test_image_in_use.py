"""An image is deleted while a disk that no machine has used yet needs all of it."""

from pathlib import Path

import pytest

from demo.server import serve_folder
from tests.e2e.resources import cluster_image, disk, machine, operation
from tests.support.product import Product
from tests.support.waiting import eventually


@pytest.mark.timeout(300)
def test_a_deleted_image_goes_only_when_its_disk_is_copied(product: Product, guest: Path) -> None:
    with serve_folder(guest.parent) as server:
        product.apply(
            cluster_image("needed", f"{server}/{guest.name}"),
            disk("needing", image="needed"),
            machine("needs", "needing", run_policy="Manual"),
        )
        product.wait_for_phase("cvmi", "needed", "Ready", "Failed")
    product.wait_for_phase("vmd", "needing", "Ready")
    product.dvcr("delete", "cvmi", "needed", "--no-wait")

    def waits() -> bool:
        status = product.get("cvmi", "needed")["status"]
        return status.get("usedInVMs") == [{"name": "needs", "namespace": "default"}] and any(
            c["reason"] == "InUse" and "VirtualMachineDisk 'default/needing'" in c["message"]
            for c in status["conditions"]
        )

    eventually(waits, "the deletion waits and says for whom", 30)
    assert "cvmi/needed" in product.dvcr("image", "ls").stdout

    def boots(count: int) -> None:
        marker = f"DVCR-GUEST boot={count}"
        eventually(lambda: marker in product.dvcr("logs", "vm/needs", check=False).stdout, marker, 60)

    product.apply(operation("needs-on", "Start", "needs"))
    boots(1)
    eventually(lambda: product.dvcr("get", "cvmi", "needed", check=False).returncode != 0, "the image is gone", 60)
    assert "cvmi/needed" not in product.dvcr("image", "ls").stdout
    product.dvcr("vm", "restart", "needs")
    boots(2)
    product.dvcr("delete", "vm", "needs")
    product.dvcr("delete", "vmd", "needing")
