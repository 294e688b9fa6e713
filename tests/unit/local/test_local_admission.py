"""What the embedded cluster refuses for what it knows of other objects."""

import json
from typing import Any

import pytest

from controller.api.machine import NOT_BOOTABLE
from controller.api.resource import CLUSTER_IMAGE, IMAGE, MACHINE, Resource
from controller.local import admission
from controller.local.definition import Definition
from controller.local.store import Image, Key, Stored

FIRST = "spec.blockDevices[0]"
MACHINES = Definition(MACHINE.group, MACHINE.version, MACHINE.kind, MACHINE.plural, custom=True)


def known(resource: Resource, namespace: str, status: dict[str, Any]) -> Image:
    image = Image()
    obj = {"metadata": {"name": "debian", "namespace": namespace, "uid": "1"}, "status": status}
    key = Key(f"{resource.plural}.{resource.group}", namespace, "debian")
    image.replace(None, Stored(key, 1, obj, json.dumps(obj).encode()))
    return image


def device(kind: str, name: str = "debian") -> dict[str, Any]:
    return {"type": kind, kind[0].lower() + kind[1:]: {"name": name}}


def machine(*devices: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "virtualization.deckhouse.io/v1alpha2",
        "kind": "VirtualMachine",
        "metadata": {"name": "web", "namespace": "space"},
        "spec": {"cpu": {"cores": 1}, "memory": {"size": "1Gi"}, "blockDevices": list(devices), **spec},
    }


def refused(image: Image, obj: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    causes = admission.check(image, MACHINES, obj, old)
    assert all(NOT_BOOTABLE in cause.message for cause in causes)
    return [cause.field for cause in causes]


@pytest.mark.parametrize(
    ("resource", "namespace", "status", "expected"),
    [
        (CLUSTER_IMAGE, "", {"phase": "Ready", "cdrom": False}, [FIRST]),
        (CLUSTER_IMAGE, "", {"phase": "Ready", "cdrom": True}, []),
        (CLUSTER_IMAGE, "", {"phase": "Provisioning"}, []),
        (CLUSTER_IMAGE, "", {}, []),
        (IMAGE, "space", {"phase": "Ready", "cdrom": False}, [FIRST]),
        (IMAGE, "elsewhere", {"phase": "Ready", "cdrom": False}, []),
    ],
)
def test_the_first_device_is_a_disk_or_a_cdrom(
    resource: Resource, namespace: str, status: dict[str, Any], expected: list[str]
) -> None:
    image = known(resource, namespace, status)
    assert refused(image, machine(device(resource.kind))) == expected
    assert refused(image, machine(device("VirtualMachineDisk"), device(resource.kind))) == []


def test_only_who_changes_the_first_device_is_told() -> None:
    image = known(CLUSTER_IMAGE, "", {"phase": "Ready", "cdrom": False})
    old, disk = machine(device("ClusterVirtualMachineImage")), machine(device("VirtualMachineDisk"))
    # The image came later than the machine.
    assert refused(image, machine(device("ClusterVirtualMachineImage"), runPolicy="AlwaysOff"), old) == []
    assert refused(image, disk, old) == []
    assert refused(image, old, disk) == [FIRST]
