"""What whoever makes an object needs in other namespaces."""

from typing import Any

import pytest

from controller.api.resource import CLUSTER_IMAGE, DISK, GROUP, IMAGE, Resource
from controller.api.rights import Right, rights_needed


def made(resource: Resource, source: dict[str, Any]) -> dict[str, Any]:
    api = {"apiVersion": resource.api_version, "kind": resource.kind}
    return {**api, "metadata": {"name": "x"}, "spec": {"dataSource": source}}


NAMED = {"name": "y", "namespace": "prod"}
HTTP = {"url": "https://example.com/a.img"}
CONTAINER = {"image": "example.com/a"}


@pytest.mark.parametrize(
    ("source", "needed"),
    [
        ({"type": "HTTP", "http": HTTP}, None),
        ({"type": "ContainerImage", "containerImage": CONTAINER}, None),
        ({"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": "y"}}, None),
        ({"type": "Upload"}, None),
        (
            {"type": "HTTP", "http": {**HTTP, "secretRef": NAMED}},
            Right("spec.dataSource.http.secretRef", "get", "", "secrets", "prod", "y"),
        ),
        (
            {"type": "ContainerImage", "containerImage": {**CONTAINER, "imagePullSecret": NAMED}},
            Right("spec.dataSource.containerImage.imagePullSecret", "get", "", "secrets", "prod", "y"),
        ),
        (
            {"type": "VirtualMachineImage", "virtualMachineImage": NAMED},
            Right("spec.dataSource.virtualMachineImage", "create", GROUP, "virtualmachineimages/source", "prod", "y"),
        ),
        (
            {"type": "VirtualMachineDisk", "virtualMachineDisk": NAMED},
            Right("spec.dataSource.virtualMachineDisk", "create", GROUP, "virtualmachinedisks/source", "prod", "y"),
        ),
    ],
)
def test_each_reference_to_a_namespace_takes_a_right(source: dict[str, Any], needed: Right | None) -> None:
    image = made(CLUSTER_IMAGE, source)

    assert rights_needed(image, None) == ([needed] if needed else [])
    assert rights_needed(image, image) == []


def test_a_new_reference_takes_one_where_another_was() -> None:
    before = made(CLUSTER_IMAGE, {"type": "VirtualMachineDisk", "virtualMachineDisk": {**NAMED, "name": "z"}})
    after = made(CLUSTER_IMAGE, {"type": "VirtualMachineDisk", "virtualMachineDisk": NAMED})

    assert [right.name for right in rights_needed(after, before)] == ["y"]


@pytest.mark.parametrize("resource", [IMAGE, DISK])
def test_what_stays_in_its_namespace_takes_none(resource: Resource) -> None:
    source = {"type": "HTTP", "http": {**HTTP, "secretRef": {"name": "y"}}}

    assert rights_needed(made(resource, source), None) == []
