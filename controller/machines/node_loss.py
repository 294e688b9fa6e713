"""Nodes that do not answer: what is to start or end there waits for them."""

from controller.api.resource import NODE
from controller.runtime.index import Object
from controller.runtime.port import ClusterReader


def node_loss(cluster: ClusterReader, pod: Object) -> str:
    """What is said of the pod's node if it is not ready; empty if it is, or nobody knows."""
    name = pod["spec"].get("nodeName")
    node = cluster.get(NODE, name) if name else None
    for condition in ((node or {}).get("status") or {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] != "True":
            why = condition.get("message") or condition.get("reason") or "it does not say why"
            return f"node {name!r} is not ready ({why}): waits until it is back, or is removed from the cluster"
    return ""
