"""What data sources and block devices name. Pure."""

from collections.abc import Iterator
from typing import Any

from controller.api.resource import CLUSTER_IMAGE, DISK, IMAGE, Resource

_BLOCKS = {"virtualMachineDisk": DISK, "virtualMachineImage": IMAGE, "clusterVirtualMachineImage": CLUSTER_IMAGE}


def named_in(place: dict[str, Any], namespace: str) -> Iterator[tuple[Resource, tuple[str, str]]]:
    """Kind, namespace and name of what a data source or block device (as JSON) of an object in `namespace` names."""
    for block, resource in _BLOCKS.items():
        named = place.get(block)
        if named:
            # Objects of the cluster name the namespace too.
            yield resource, (named.get("namespace", namespace) if resource.namespaced else "", named["name"])
