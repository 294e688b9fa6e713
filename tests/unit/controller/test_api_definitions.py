"""The definitions against the facts of the API."""

from typing import Any

import pytest

from controller.api.kinds import crds

COLUMNS = {
    "images": ["Phase", "CDROM", "Progress", "StoredSize*", "UnpackedSize*", "Registry URL*", "Age"],
    "disks": ["Phase", "Capacity", "Progress*", "Target PVC*", "Age"],
    "machines": ["Phase", "NodeName", "IPAddress", "Age"],
    "operations": ["Phase", "VMName", "Age"],
    "attachments": ["Phase", "VMName", "Disk*", "Age"],
    "claims": ["Phase", "Address", "VM", "Age"],
    "leases": ["Phase", "Namespace", "Claim", "Age"],
}
FACTS = [
    ("ClusterVirtualMachineImage", "Cluster", "clustervirtualmachineimages", ["cvmi", "cvmis"], "images"),
    ("VirtualMachineImage", "Namespaced", "virtualmachineimages", ["vmi", "vmis"], "images"),
    ("VirtualMachineDisk", "Namespaced", "virtualmachinedisks", ["vmd", "vmds"], "disks"),
    ("VirtualMachine", "Namespaced", "virtualmachines", ["vm", "vms"], "machines"),
    ("VirtualMachineOperation", "Namespaced", "virtualmachineoperations", ["vmop", "vmops"], "operations"),
    (
        "VirtualMachineBlockDeviceAttachment",
        "Namespaced",
        "virtualmachineblockdeviceattachments",
        ["vmbda", "vmbdas"],
        "attachments",
    ),
    ("VirtualMachineIPAddressClaim", "Namespaced", "virtualmachineipaddressclaims", ["vmip", "vmips"], "claims"),
    ("VirtualMachineIPAddressLease", "Cluster", "virtualmachineipaddressleases", ["vmipl", "vmipls"], "leases"),
]


def definition(kind: str) -> dict[str, Any]:
    return next(crd for crd in crds() if crd["spec"]["names"]["kind"] == kind)


def schema(kind: str) -> dict[str, Any]:
    (version,) = definition(kind)["spec"]["versions"]
    properties: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]
    return properties


@pytest.mark.parametrize(("kind", "scope", "plural", "short_names", "columns"), FACTS)
def test_names_scope_and_columns(kind: str, scope: str, plural: str, short_names: list[str], columns: str) -> None:
    crd = definition(kind)
    spec = crd["spec"]
    assert crd["metadata"]["name"] == f"{plural}.virtualization.deckhouse.io"
    assert (spec["scope"], spec["names"]["plural"], spec["names"]["shortNames"]) == (scope, plural, short_names)
    assert spec["names"]["categories"] == ["virtualization"] + (["all"] if scope == "Namespaced" else [])
    (version,) = spec["versions"]
    assert version["name"] == "v1alpha2"
    assert version["subresources"] == {"status": {}}
    shown = [c["name"] + ("*" if c.get("priority") else "") for c in version["additionalPrinterColumns"]]
    assert shown == COLUMNS[columns]


@pytest.mark.parametrize(
    ("kind", "path", "default"),
    [
        ("VirtualMachine", "runPolicy", "AlwaysOnUnlessStoppedManually"),
        ("VirtualMachine", "cpu.coreFraction", "100%"),
        ("VirtualMachine", "cpu.modelName", "generic-v1"),
        ("VirtualMachine", "bootloader", "BIOS"),
        ("VirtualMachine", "osType", "Generic"),
        ("VirtualMachine", "enableParavirtualization", True),
        ("VirtualMachine", "disruptions.restartApprovalMode", "Manual"),
        ("VirtualMachine", "terminationGracePeriodSeconds", 60),
        ("VirtualMachineImage", "storage", "ContainerRegistry"),
        ("VirtualMachineImage", "dataSource.http.insecureSkipVerify", False),
    ],
)
def test_defaults(kind: str, path: str, default: object) -> None:
    node = schema(kind)["spec"]
    for part in path.split("."):
        node = node["properties"][part]
    assert node["default"] == default


def test_required_fields() -> None:
    assert set(schema("VirtualMachine")["spec"]["required"]) == {"cpu", "memory", "blockDevices"}
    assert schema("VirtualMachineDisk")["spec"]["required"] == ["persistentVolumeClaim"]
    assert schema("VirtualMachineImage")["spec"]["required"] == ["dataSource"]


def test_fields_with_capitals_keep_them() -> None:
    status = schema("VirtualMachineImage")["status"]["properties"]
    assert {"imageUploadURLs", "usedInVMs", "importDuration", "downloadSpeed"} <= status.keys()
    assert "registryURL" in status["target"]["properties"]
    assert "guestOSInfo" in schema("VirtualMachine")["status"]["properties"]
    assert "virtualMachineIPAddressClaimName" in schema("VirtualMachine")["spec"]["properties"]


def test_schemas_are_structural() -> None:
    def walk(node: dict[str, Any], path: str) -> None:
        assert not {"$ref", "$defs", "title", "const"} & node.keys(), path
        assert (
            "type" in node or "x-kubernetes-int-or-string" in node or ("x-kubernetes-preserve-unknown-fields" in node)
        ), path
        for name, part in node.get("properties", {}).items():
            walk(part, f"{path}.{name}")
        if "items" in node:
            walk(node["items"], f"{path}[]")

    for kind, *_ in FACTS:
        walk(schema(kind)["spec"], f"{kind}.spec")
        walk(schema(kind)["status"], f"{kind}.status")
