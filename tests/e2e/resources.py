"""Resources as a user writes them."""

from typing import Any

API = "virtualization.deckhouse.io/v1alpha2"


def cluster_image(name: str, url: str, **checksum: str) -> dict[str, Any]:
    http: dict[str, Any] = {"url": url}
    if checksum:
        http["checksum"] = checksum
    return {
        "apiVersion": API,
        "kind": "ClusterVirtualMachineImage",
        "metadata": {"name": name},
        "spec": {"dataSource": {"type": "HTTP", "http": http}},
    }


def upload_image(name: str) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "VirtualMachineImage",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"storage": "ContainerRegistry", "dataSource": {"type": "Upload"}},
    }


def disk(name: str, image: str = "", size: str = "") -> dict[str, Any]:
    spec: dict[str, Any] = {"persistentVolumeClaim": {"size": size} if size else {}}
    if image:
        spec["dataSource"] = {"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": image}}
    return {
        "apiVersion": API,
        "kind": "VirtualMachineDisk",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def machine(
    name: str, *disks: str, user_data: str = "", run_policy: str = "AlwaysOnUnlessStoppedManually"
) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "runPolicy": run_policy,
        "cpu": {"cores": 1},
        "memory": {"size": "256Mi"},
        "blockDevices": [{"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": d}} for d in disks],
        "terminationGracePeriodSeconds": 20,
    }
    if user_data:
        spec["provisioning"] = {"type": "UserData", "userData": user_data}
    return {
        "apiVersion": API,
        "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def operation(name: str, kind: str, machine_name: str) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "VirtualMachineOperation",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": kind, "virtualMachineName": machine_name},
    }
