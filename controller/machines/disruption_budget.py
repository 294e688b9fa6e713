"""A PodDisruptionBudget for each pod that runs a machine: its eviction is refused, with 429, as long as it runs.

The webhook, which the API server asks first, does more: it has the machine moved, after which its pod ends by itself.
The budget holds where no webhook answers. It says nothing of pods that are pending, deleted or have ended: to the API
server none of them counts.

One for each pod, not for each machine: a pod that two budgets select cannot be evicted at all, and one budget over both
pods of a move would let one of them go. It is collected with its pod.
"""

from controller.api.resource import DISRUPTION_BUDGET
from controller.disks.usage import is_over, pods_of_machine
from controller.machines.pod import MOVE_LABEL, NAME_LABEL
from controller.machines.visit import Flow, Visit
from controller.runtime.index import Object


def protect(visit: Visit) -> Flow:
    """The step that gives a budget to each of the machine's pods; also to the one that the machine moves to."""
    machine = visit.machine
    if machine.deleting:
        return Flow.ON
    for pod in pods_of_machine(visit.cluster, machine.name, machine.namespace):
        if is_over(pod) or "deletionTimestamp" in pod["metadata"]:
            continue
        budget = build_budget(machine.name, pod)
        if visit.cluster.get(DISRUPTION_BUDGET, budget["metadata"]["name"], machine.namespace) is None:
            visit.cluster.create(DISRUPTION_BUDGET, budget)
    return Flow.ON


def build_budget(machine: str, pod: Object) -> Object:
    """The budget of the machine's pod, under a name that no other pod's has. Pure."""
    metadata = pod["metadata"]
    move = (metadata.get("labels") or {}).get(MOVE_LABEL)
    which = {"operator": "In", "values": [move]} if move else {"operator": "DoesNotExist"}
    return {
        "apiVersion": DISRUPTION_BUDGET.api_version,
        "kind": DISRUPTION_BUDGET.kind,
        "metadata": {
            "name": f"{metadata['name']}-{metadata['uid'][:8]}",
            "namespace": metadata["namespace"],
            "labels": {NAME_LABEL: machine},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}],
        },
        "spec": {
            "minAvailable": 1,
            "selector": {"matchLabels": {NAME_LABEL: machine}, "matchExpressions": [{"key": MOVE_LABEL, **which}]},
        },
    }
