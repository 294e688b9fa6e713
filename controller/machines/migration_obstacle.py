"""What keeps a running machine from moving to another node."""

from controller.api.machine import MachineSpec
from controller.api.node_selection import rejection
from controller.api.pod_claims import claims_of
from controller.api.resource import NODE, PVC
from controller.launcher.spec import MachineStatus
from controller.machines.launch import NotReady
from controller.machines.pod import applied_spec, placement
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort

READ_WRITE_MANY = "ReadWriteMany"


def obstacle(cluster: ClusterPort, spec: MachineSpec, pod: Object, launcher: MachineStatus | None) -> NotReady | None:
    """The first thing that is in the way; None if the machine in the pod can move. Where it may run says `spec`."""
    namespace, here = pod["metadata"]["namespace"], pod["spec"].get("nodeName")
    for name in sorted(claims_of(pod)):
        claim = cluster.get(PVC, name, namespace)
        modes = (claim or {}).get("spec", {}).get("accessModes") or ["gone"]
        if READ_WRITE_MANY not in modes:
            message = (
                f"PersistentVolumeClaim {name!r} is {', '.join(modes)}: both nodes must be able to open a machine's "
                f"disks, so they have to be on a storage class with the access mode {READ_WRITE_MANY}"
            )
            return NotReady("DisksNotShared", message)
    others = [node for node in cluster.list(NODE) if node["metadata"]["name"] != here and _takes_pods(node)]
    if not others:
        return NotReady("NoOtherNode", "there is no other node that is ready and takes pods")
    placed = {"spec": placement(spec, applied_spec(pod)["cpu"]["modelName"])}
    rejections = {node["metadata"]["name"]: rejection(placed, node) for node in others}
    if all(rejections.values()):
        told = "; ".join(f"{name}: {reason}" for name, reason in sorted(rejections.items()))
        return NotReady("NoOtherNode", f"the machine may run on no other node that takes pods: {told}")
    if launcher is None:
        return NotReady("LauncherUnavailable", "the launcher that runs the machine does not answer")
    unsettled = [disk.name for disk in launcher.disks if not disk.attached or disk.message]
    if unsettled:
        return NotReady("DisksChanging", f"disks are being attached or detached: {', '.join(unsettled)}")
    return None


def _takes_pods(node: Object) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and not node["spec"].get("unschedulable")
