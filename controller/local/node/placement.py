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


def tell_misfit(pod: Object, node: str, reason: str, now: str) -> list[Object] | None:
    """The pod's conditions once they say that it has no node, and why this one does not take it.

    None where they do, or say it of another node: one is enough, and the Events have all.
    """
    conditions: list[Object] = (pod.get("status") or {}).get("conditions") or []
    before: Object = next((each for each in conditions if each["type"] == "PodScheduled"), {})
    said, message = before.get("message") or "", f"node {node}: {reason}"
    if said == message or (said and not said.startswith(f"node {node}: ")):
        return None
    told = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": before.get("lastTransitionTime") or now,
    }
    return [*(each for each in conditions if each["type"] != "PodScheduled"), told]
