"""Which pods this node takes. Pure."""

from collections.abc import Callable
from typing import Any

from controller.local.node.affinity import affinity_allows
from controller.local.node.claims import node_of

Object = dict[str, Any]


def misfit(pod: Object, node: Object, volume_of: Callable[[str], Object | None]) -> str:
    """Why the pod cannot run on the node; empty if it can. `volume_of` gives the bound volume of a claim by name."""
    if node["spec"].get("unschedulable"):
        return "the node is cordoned"
    labels = node["metadata"].get("labels") or {}
    for key, value in (pod["spec"].get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return f"the node does not have the label {key}={value}"
    if not affinity_allows(pod, node):
        return "the node does not match the pod's node affinity"
    for volume in pod["spec"].get("volumes") or ():
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        bound = volume_of(claim) if claim else None
        if bound is not None and node_of(bound) not in ("", node["metadata"]["name"]):
            return f"the volume of claim {claim!r} is on node {node_of(bound)!r}"
    return ""
