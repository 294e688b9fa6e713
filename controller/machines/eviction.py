"""From the eviction of a machine's pod to the operation that moves the machine."""

import hashlib

from controller.api.eviction import RECENT, REQUESTED_ANNOTATION
from controller.api.operation import OperationType
from controller.api.resource import OPERATION
from controller.machines.migration import is_under_way
from controller.machines.states import MIGRATABLE
from controller.machines.visit import Flow, Visit
from controller.runtime.conditions import find_condition, read_time
from controller.runtime.errors import AlreadyExistsError

_PAUSE_S = 10.0


def heed_eviction(visit: Visit) -> Flow:
    """The step that asks for a move as long as somebody evicts the pod; a failed one is tried again after a pause."""
    pod, move = visit.pod, visit.status.migration
    if pod is None or visit.request is not None or is_under_way(move):
        return Flow.ON
    asked_at = (pod["metadata"].get("annotations") or {}).get(REQUESTED_ANNOTATION)
    if asked_at is None or visit.now - read_time(asked_at) > RECENT:
        return Flow.ON
    ended_at = (move.ended_at if move is not None else None) or ""
    if ended_at and (visit.now - read_time(ended_at)).total_seconds() < _PAUSE_S:
        visit.look_again(_PAUSE_S)
        return Flow.ON
    migratable = find_condition(visit.status.conditions, MIGRATABLE)
    if migratable is None or migratable.status != "True":
        return Flow.ON
    attempt = hashlib.sha256(f"{pod['metadata']['uid']}{ended_at}".encode()).hexdigest()[:8]
    operation = {
        "apiVersion": OPERATION.api_version,
        "kind": OPERATION.kind,
        "metadata": {
            "name": f"evict-{visit.machine.name}-{attempt}",
            "namespace": visit.machine.namespace,
            "ownerReferences": [visit.machine.owner_reference()],
        },
        "spec": {"type": OperationType.EVICT.value, "virtualMachineName": visit.machine.name},
    }
    try:
        visit.cluster.create(OPERATION, operation)
    except AlreadyExistsError:
        return Flow.ON  # it was made by an earlier pass
    return Flow.ON
