"""Which pods this node takes. Pure."""

from collections.abc import Callable
from typing import Any

from controller.api.node_selection import rejection
from controller.local.node.claims import node_of

Object = dict[str, Any]


def misfit(pod: Object, node: Object, volume_of: Callable[[str], Object | None]) -> str:
    """Why the pod cannot run on the node; empty if it can. `volume_of` gives the bound volume of a claim by name."""
    if node["spec"].get("unschedulable"):
        return "the node is cordoned"
    rejected = rejection(pod, node)
    if rejected:
        return rejected
    for volume in pod["spec"].get("volumes") or ():
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        bound = volume_of(claim) if claim else None
        if bound is not None and node_of(bound) not in ("", node["metadata"]["name"]):
            return f"the volume of claim {claim!r} is on node {node_of(bound)!r}"
    return ""
