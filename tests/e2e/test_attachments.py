"""Disks that come to running machines: seen by the guest, moved to another one, there after a restart, larger, gone."""

from pathlib import Path
from typing import Any

import pytest

from demo.server import serve_folder
from tests.e2e.resources import API, cluster_image, disk, machine, operation
from tests.support.product import Product
from tests.support.waiting import eventually

MIB = 2**20
# Says which disks there are besides the system's, with their sizes in sectors, whenever that changes; of a new one,
# whether a guest of these tests has had it before.
WATCH_DISKS = r"""#!/bin/sh
disks() {
    for disk in /sys/class/block/vd?; do
        serial=$(cat "$disk/serial")
        case $serial in vmd-root*) ;; ?*) echo -n " $serial:$(cat "$disk/size"):$(mark "/dev/${disk##*/}")" ;; esac
    done
}
mark() {
    [ "$(head -c 4 "$1")" = mark ] && echo seen && return
    printf mark | dd of="$1" conv=notrunc,fsync 2>/dev/null
    echo new
}
last=none
while :; do
    now=$(disks)
    [ "$now" = "$last" ] || echo "DVCR-GUEST disks$now."
    last=${now%new}
    [ "$last" = "$now" ] || last="${last}seen"
    usleep 100000
done >/dev/ttyS0 &
"""


def attachment(name: str, machine_name: str, disk_name: str) -> dict[str, Any]:
    device = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": disk_name}}
    return {
        "apiVersion": API,
        "kind": "VirtualMachineBlockDeviceAttachment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"virtualMachineName": machine_name, "blockDevice": device},
    }


def storage_class(name: str, volume_mode: str) -> dict[str, Any]:
    """Of the node agent's provisioner."""
    annotations = {"virtualdisk.virtualization.deckhouse.io/volume-mode": volume_mode}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": annotations},
        "provisioner": "virtualization.deckhouse.io/node",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
        "allowVolumeExpansion": True,
    }


def last_disks(product: Product, name: str) -> str:
    """The guest's last word on its disks."""
    console = product.dvcr("logs", f"vm/{name}", check=False).stdout
    _, mark, told = console.rpartition("DVCR-GUEST disks")
    return told.partition(".")[0].strip() if mark else "the guest has not said anything"


def guest_has(product: Product, name: str, disks: str) -> None:
    eventually(lambda: last_disks(product, name) == disks, f"{disks!r} in {name}", 240)


def attached_to(product: Product, name: str, machine_name: str) -> None:
    def reached() -> bool:
        status = product.get("vmbda", name).get("status", {})
        return (status.get("phase"), status.get("virtualMachineName")) == ("Attached", machine_name)

    eventually(reached, f"{name} attached to {machine_name}", 90)


@pytest.mark.timeout(900)  # three boots under emulation
def test_a_disk_is_plugged_grows_moves_survives_a_restart_and_is_unplugged(product: Product, guest: Path) -> None:
    data = disk("data", size="16Mi")
    data["spec"]["persistentVolumeClaim"]["storageClassName"] = "devices"
    with serve_folder(guest.parent) as server:
        product.apply(
            storage_class("devices", "Block"),
            cluster_image("plugged", f"{server}/{guest.name}"),
            data,
            *(disk(f"root-{name}", image="plugged") for name in ("one", "two")),
            *(machine(name, f"root-{name}", user_data=WATCH_DISKS) for name in ("one", "two")),
        )
        product.wait_for_phase("cvmi", "plugged", "Ready")
    guest_has(product, "one", "")
    guest_has(product, "two", "")

    product.apply(attachment("plug", "one", "data"))
    guest_has(product, "one", "vmd-data:32768:new")
    attached_to(product, "plug", "one")
    eventually(lambda: len(product.get("vm", "one")["status"]["blockDevicesAttached"]) == 2, "told by the machine", 60)
    device = product.get("vm", "one")["status"]["blockDevicesAttached"][1]
    assert (device["virtualMachineDisk"], device["target"], device["size"]) == ({"name": "data"}, "vdc", "16Mi")
    assert device["hotpluggable"] is True

    data["spec"]["persistentVolumeClaim"]["size"] = "24Mi"
    product.apply(data)
    guest_has(product, "one", "vmd-data:49152:seen")
    eventually(lambda: product.get("vmd", "data")["status"]["capacity"] == "24Mi", "the new capacity", 60)

    product.apply(attachment("plug", "two", "data"))
    guest_has(product, "two", "vmd-data:49152:seen")
    guest_has(product, "one", "")
    attached_to(product, "plug", "two")

    product.apply(operation("plug-again", "Restart", "two"))
    product.wait_for_phase("vmop", "plug-again", "Completed")
    guest_has(product, "two", "vmd-data:49152:seen")
    attached_to(product, "plug", "two")

    product.dvcr("delete", "vmd", "data", "--no-wait")

    def waits() -> bool:
        conditions = product.get("vmd", "data")["status"]["conditions"]
        return any(c["message"] == "waits for VirtualMachine 'two' to stop using the disk" for c in conditions)

    eventually(waits, "the deletion waits and says for whom", 30)
    product.dvcr("delete", "vmbda", "plug")
    guest_has(product, "two", "")
    eventually(lambda: product.dvcr("get", "vmd", "data", check=False).returncode != 0, "the disk is gone", 60)
    for name in ("one", "two"):
        assert product.get("vm", name)["status"]["phase"] == "Running"
        product.dvcr("delete", "vm", name)
        product.dvcr("delete", "vmd", f"root-{name}")
    product.dvcr("delete", "cvmi", "plugged")
