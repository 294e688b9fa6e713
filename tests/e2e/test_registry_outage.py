"""The registry goes away under a guest whose disk is not copied yet."""

import hashlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from demo.server import serve_folder
from tests.e2e.resources import cluster_image, disk, machine
from tests.e2e.test_attachments import attachment
from tests.support.product import Product, running_product
from tests.support.waiting import eventually

# Takes longer to copy than the test takes to see that the copy begins.
SIZE_BYTES = 256 * 2**20
# Reads the disk as a whole, once, as soon as it is plugged in.
READ_DISK = """#!/bin/sh
while :; do
    for disk in /sys/class/block/vd?; do
        [ "$(cat "$disk/serial")" = vmd-bulk ] || continue
        echo "DVCR-GUEST md5=$(md5sum <"/dev/${disk##*/}" | cut -d ' ' -f 1)"
        exit
    done
    usleep 100000
done >/dev/ttyS0 &
"""


def _registry(product: Product) -> int:
    """The process group of the product's registry."""
    pid = product.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if Path(f"/proc/{child}/cmdline").read_bytes().endswith(b"\0serve\0"):
            return os.getpgid(int(child))
    raise AssertionError("no registry among the processes of the product")


def _running(product: Product) -> dict[str, Any]:
    conditions = product.get("vm", "reader")["status"]["conditions"]
    found: dict[str, Any] = next(condition for condition in conditions if condition["type"] == "Running")
    return found


@pytest.mark.timeout(420)
def test_a_guest_pauses_while_the_registry_is_away_and_goes_on_by_itself(tmp_path: Path, guest: Path) -> None:
    raw, bulk = tmp_path / "bulk.raw", tmp_path / "bulk.qcow2"
    raw.write_bytes(os.urandom(SIZE_BYTES))
    expected = hashlib.md5(raw.read_bytes(), usedforsecurity=False).hexdigest()
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, bulk], check=True)
    data = tmp_path / "data"

    def disks_made() -> int:
        return len(list((data / "node/volumes").glob("*/disk.qcow2")))

    # A registry that stands still is noticed soon.
    with (
        running_product(data, {"DVCR__CLIENT__TIMEOUT_S": "2"}) as product,
        serve_folder(guest.parent) as guests,
        serve_folder(tmp_path) as bulks,
    ):
        product.apply(
            cluster_image("guest", f"{guests}/{guest.name}"),
            cluster_image("bulk", f"{bulks}/{bulk.name}"),
            disk("root", image="guest"),
            machine("reader", "root", user_data=READ_DISK),
        )
        product.wait_for_phase("cvmi", "bulk", "Ready")
        eventually(
            lambda: "DVCR-GUEST ready" in product.dvcr("logs", "vm/reader", check=False).stdout, "the guest's boot", 90
        )
        assert disks_made() == 1

        product.apply(disk("bulk", image="bulk"), attachment("bulk", "reader", "bulk"))
        eventually(lambda: disks_made() == 2, "the disk that is plugged in", 60, interval_s=0.002)
        registry = _registry(product)
        os.killpg(registry, signal.SIGSTOP)
        try:
            eventually(lambda: _running(product)["reason"] == "Paused", "the guest's pause", 120)
            assert "read error on block device vmd-bulk" in _running(product)["message"]
            assert product.get("vm", "reader")["status"]["phase"] == "Pause"
            assert "DVCR-GUEST md5=" not in product.dvcr("logs", "vm/reader").stdout
        finally:
            os.killpg(registry, signal.SIGKILL)

        eventually(
            lambda: f"DVCR-GUEST md5={expected}" in product.dvcr("logs", "vm/reader").stdout, "all of the disk", 120
        )
        assert product.wait_for_phase("vm", "reader", "Running")
        assert _running(product)["status"] == "True"
        assert _registry(product) != registry
