"""An image in a PersistentVolumeClaim: filled, shown to a guest, made a disk of, and deleted with its claim."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from demo.server import serve_folder
from tests.e2e.resources import API, machine
from tests.support.product import Product
from tests.support.waiting import eventually

# Reads the image as a whole, once.
READ_IMAGE = """#!/bin/sh
for disk in /sys/class/block/vd?; do
    [ "$(cat "$disk/serial")" = vmi-kept ] || continue
    echo "DVCR-GUEST md5=$(md5sum <"/dev/${disk##*/}" | cut -d ' ' -f 1)" >/dev/ttyS0
done
"""
IMAGE = {"type": "VirtualMachineImage", "virtualMachineImage": {"name": "kept"}}


def resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec}


@pytest.mark.timeout(420)
def test_an_image_in_a_claim_from_its_import_to_its_end(product: Product, guest: Path, tmp_path: Path) -> None:
    raw, copy = tmp_path / "guest.raw", tmp_path / "copy.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", guest, raw], check=True)
    with serve_folder(guest.parent) as server:
        source = {"type": "HTTP", "http": {"url": f"{server}/{guest.name}"}}
        spec = {"storage": "PersistentVolumeClaim", "dataSource": source}
        product.apply(resource("VirtualMachineImage", "kept", spec))
        status = product.wait_for_phase("vmi", "kept", "Ready", "Failed")["status"]
    assert status["phase"] == "Ready", status["failureMessage"]
    assert status["progress"] == "100%"
    assert status["target"]["persistentVolumeClaimName"] == "vmi-kept"

    claim = product.get("pvc", "vmi-kept")
    assert claim["status"]["phase"] == "Bound"
    volume = product.data / "node/volumes" / claim["spec"]["volumeName"] / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", volume, copy], check=True)
    assert copy.read_bytes() == raw.read_bytes(), "the claim has all of the image, and needs no registry"

    reader = machine("keeps", "keeping", user_data=READ_IMAGE)
    reader["spec"]["blockDevices"].append(IMAGE)
    product.apply(resource("VirtualMachineDisk", "keeping", {"persistentVolumeClaim": {}, "dataSource": IMAGE}), reader)
    digest = hashlib.md5(raw.read_bytes(), usedforsecurity=False).hexdigest()
    seen = f"DVCR-GUEST md5={digest}"
    eventually(lambda: seen in product.dvcr("logs", "vm/keeps", check=False).stdout, "the guest reads the image", 90)
    assert product.get("vmi", "kept")["status"]["usedInVMs"] == [{"name": "keeps", "namespace": "default"}]

    product.dvcr("delete", "vmi", "kept", "--no-wait")

    def waits() -> bool:
        conditions = product.get("vmi", "kept")["status"]["conditions"]
        return any(c["reason"] == "InUse" and "VirtualMachine 'default/keeps'" in c["message"] for c in conditions)

    eventually(waits, "the deletion waits for the machine", 30)
    assert volume.exists()
    product.dvcr("delete", "vm", "keeps")
    product.dvcr("delete", "vmd", "keeping")
    eventually(lambda: product.dvcr("get", "vmi", "kept", check=False).returncode != 0, "the image is gone", 60)
    eventually(lambda: product.dvcr("get", "pvc", "vmi-kept", check=False).returncode != 0, "the claim is gone", 60)
    eventually(lambda: not volume.exists(), "the volume is gone", 60)
    assert "vmi/default/kept" not in product.dvcr("image", "ls").stdout
