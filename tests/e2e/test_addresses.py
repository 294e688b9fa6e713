"""Addresses of machines as a user asks for them, and a guest that answers there."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.server import serve_folder
from tests.e2e.resources import API, cluster_image, disk, machine, operation
from tests.support.guest_page import guest_page
from tests.support.product import Product
from tests.support.waiting import eventually

# Guests boot under emulation, on machines that may be busy.
pytestmark = pytest.mark.timeout(600)

PORT = 8000
USER_DATA = (
    "#cloud-config\nhostname: web\nruncmd:\n"
    f"  - echo hello from the guest > /data/index.html\n  - httpd -p {PORT} -h /data\n"
)
ADDRESS = f"127.65.{os.getpid() % 250}.77"


def claim(name: str, **spec: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": API, "kind": "VirtualMachineIPAddressClaim", "metadata": metadata, "spec": spec}


@pytest.fixture
def image(product: Product, guest: Path) -> Iterator[str]:
    with serve_folder(guest.parent) as server:
        product.apply(cluster_image("addressed", f"{server}/{guest.name}"))
        product.wait_for_phase("cvmi", "addressed", "Ready")
    yield "addressed"
    product.dvcr("delete", "cvmi", "addressed")


def test_a_machine_answers_at_the_address_that_it_claims_before_and_after_a_restart(
    product: Product, image: str
) -> None:
    product.apply(claim("fixed", address=ADDRESS), disk("addressed", image=image))
    product.wait_for_phase("vmip", "fixed", "Bound")
    product.apply(claim("late", address=ADDRESS))
    late = product.wait_for_phase("vmip", "late", "Conflict")
    assert late["status"]["conflictMessage"] == f"{ADDRESS} belongs to claim 'fixed' of namespace 'default'"

    web = machine("web", "addressed", user_data=USER_DATA)
    web["spec"]["virtualMachineIPAddressClaimName"] = "fixed"
    product.apply(web)
    status = product.wait_for_phase("vm", "web", "Running")["status"]
    assert (status["ipAddress"], status["ipAddressClaim"]) == (ADDRESS, "fixed")
    eventually(lambda: guest_page(ADDRESS, PORT) == "hello from the guest\n", "the guest's page", 180)
    assert product.get("vmip", "fixed")["status"]["virtualMachineName"] == "web"

    product.apply(operation("web-again", "Restart", "web"))
    product.wait_for_phase("vmop", "web-again", "Completed", timeout_s=180)
    status = product.wait_for_phase("vm", "web", "Running")["status"]
    assert status["ipAddress"] == ADDRESS
    eventually(lambda: guest_page(ADDRESS, PORT) == "hello from the guest\n", "the guest's page after the restart", 180)

    product.dvcr("delete", "vm", "web")
    product.dvcr("delete", "vmd", "addressed")
    assert guest_page(ADDRESS, PORT) == ""
    product.dvcr("delete", "vmip", "fixed")
    assert product.wait_for_phase("vmip", "late", "Bound")["status"]["address"] == ADDRESS
    product.dvcr("delete", "vmip", "late")


def test_a_machine_without_a_claim_gets_one_that_goes_with_it(product: Product, image: str) -> None:
    product.apply(disk("alone", image=image), machine("alone", "alone"))
    product.wait_for_phase("vm", "alone", "Running")
    status = product.get("vm", "alone")["status"]
    made = product.get("vmip", "alone")["status"]
    assert made["phase"] == "Bound"
    assert (status["ipAddress"], status["ipAddressClaim"]) == (made["address"], "alone")
    lease = "ip-" + made["address"].replace(".", "-")
    assert product.get("vmipl", lease)["status"]["phase"] == "Bound"

    product.dvcr("delete", "vm", "alone")
    eventually(lambda: product.dvcr("get", "vmipl", lease, check=False).returncode != 0, "the release of the lease", 60)
    assert product.dvcr("get", "vmip", "alone", check=False).returncode != 0
    product.dvcr("delete", "vmd", "alone")
