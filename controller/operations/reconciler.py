"""VirtualMachineOperation."""

import copy
from datetime import timedelta

from controller.api.machine import MachinePhase, MachineSpec, MachineStatus, MigrationPhase
from controller.api.operation import OperationPhase, OperationSpec, OperationStatus, OperationType
from controller.api.resource import MACHINE, OPERATION, POD
from controller.machines.pod import active_pod_name
from controller.machines.request import MOVES, REQUEST_ANNOTATION, PowerRequest, read_request, write_request
from controller.machines.states import MIGRATING, RUNNING
from controller.operations.concerns import BY_MACHINE
from controller.operations.table import displaces, refusal, refused_by_policy
from controller.runtime.conditions import Clock, find_condition, read_time, utc_now
from controller.runtime.errors import ClusterError
from controller.runtime.index import Key, Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import MAINTAINED, Subject, refused_upkeep

COMPLETED = "Completed"
_ENDED = (OperationPhase.COMPLETED, OperationPhase.FAILED)
_POLL_S = 5.0


class OperationReconciler:
    """Hands operations to their machines one at a time, waits for the effect, and removes them a while after."""

    def __init__(self, cluster: ClusterPort, ttl_s: float, clock: Clock = utc_now) -> None:
        self._cluster = cluster
        self._ttl = timedelta(seconds=ttl_s)
        self._clock = clock

    def reconcile(self, key: Key) -> float | None:
        obj = self._cluster.get(OPERATION, key[1], key[0])
        if obj is None:
            return None
        operation = Subject(self._cluster, OPERATION, obj, OperationStatus, self._clock)
        spec = OperationSpec.read(obj["spec"])
        machine = self._cluster.get(MACHINE, spec.virtual_machine_name, key[0])
        ended = operation.status.phase in _ENDED
        try:
            if operation.deleting or ended:
                return self._clear_up(operation, machine)
            # Deleted half-way, an operation must still take its request back.
            operation.hold()
            again_s = self._carry_out(operation, spec, machine)
        except ClusterError as exc:
            operation.status.phase = operation.status.phase or OperationPhase.PENDING
            # How an operation ended stays said.
            operation.tell_trouble(MAINTAINED if ended else COMPLETED, exc)
            raise
        operation.save()
        if operation.status.phase in _ENDED:
            self._withdraw(operation, machine)
            return self._ttl.total_seconds()
        return again_s

    def _clear_up(self, operation: Subject[OperationStatus], machine: Object | None) -> float | None:
        """Make room for the next operation, and remove what has ended, or is to be deleted, when it is time."""
        self._withdraw(operation, machine)
        if operation.deleting:
            operation.let_go()
            return None
        left_s = self._left_s(operation)
        if left_s > 0:
            operation.save()
            return left_s
        self._cluster.delete(OPERATION, operation.name, operation.namespace, uid=operation.uid)
        return None

    def _carry_out(
        self, operation: Subject[OperationStatus], spec: OperationSpec, machine: Object | None
    ) -> float | None:
        if machine is None or "deletionTimestamp" in machine["metadata"]:
            message = f"there is no VirtualMachine {spec.virtual_machine_name!r}"
            return self._fail(operation, "VirtualMachineNotFound", message)
        status = MachineStatus.read(machine.get("status"))
        if status.power is not None and status.power.operation == operation.uid:
            return self._complete(operation, "Completed", f"{spec.type.value} is done")
        move = status.migration
        if move is not None and move.operation == operation.uid and move.phase is MigrationPhase.FAILED:
            return self._fail(operation, move.reason or "MigrationFailed", move.message or "the machine has not moved")
        policy = MachineSpec.read(machine["spec"]).run_policy
        request = read_request(machine)
        if request is not None and request.uid == operation.uid:
            # The policy may have changed meanwhile: what it forbids now would never happen.
            refused = refused_by_policy(spec.type, policy)
            if refused is not None:
                return self._fail(operation, refused.reason, refused.message)
            return self._wait(operation, spec, status)
        if request is not None and operation.status.phase is OperationPhase.IN_PROGRESS:
            return self._give_way(operation, spec, request)
        if request is not None and not displaces(spec.type, request, force=spec.force):
            return self._queue(operation, request.name)
        ahead = self._ahead(operation, spec) if request is None and not spec.force else None
        if ahead is not None:
            return self._queue(operation, ahead)
        if request is not None and request.type is OperationType.START:
            # The phase may still be the one from before the start.
            refused = refused_by_policy(spec.type, policy)
        else:
            refused = refusal(spec.type, policy, status.phase or MachinePhase.PENDING, force=spec.force)
        if refused is not None:
            return self._fail(operation, refused.reason, refused.message)
        self._hand_over(operation, spec, machine)
        return self._wait(operation, spec, status)

    def _ahead(self, operation: Subject[OperationStatus], spec: OperationSpec) -> str | None:
        """Name of an operation on the machine that was made earlier, by a second or more, and has not ended."""
        made = operation.obj["metadata"]["creationTimestamp"]
        for other in self._cluster.find(BY_MACHINE, (operation.namespace, spec.virtual_machine_name)):
            metadata, phase = other["metadata"], (other.get("status") or {}).get("phase")
            if metadata["creationTimestamp"] < made and phase not in _ENDED and "deletionTimestamp" not in metadata:
                name: str = metadata["name"]
                return name
        return None

    def _queue(self, operation: Subject[OperationStatus], ahead: str) -> float | None:
        operation.status.phase = OperationPhase.PENDING
        operation.condition(COMPLETED, False, "OtherOperationInProgress", f"waits for operation {ahead!r}")
        return _POLL_S

    def _wait(self, operation: Subject[OperationStatus], spec: OperationSpec, status: MachineStatus) -> float | None:
        running = find_condition(status.conditions, RUNNING)
        if status.power is not None and status.power.heard == operation.uid and status.power.crashes:
            message = running.message if running is not None else "no reason is known"
            return self._fail(operation, "MachineCrashed", f"the machine crashed: {message}")
        operation.status.phase = OperationPhase.IN_PROGRESS
        shown, tells = running, "False"
        if spec.type in MOVES:
            shown, tells = find_condition(status.conditions, MIGRATING), "True"
        told = shown.message if shown is not None and shown.status == tells else ""
        told = "; ".join(filter(None, (told, refused_upkeep(status.conditions))))
        why = f" ({told})" if told else ""
        message = (
            f"waits for the machine to {spec.type.value.lower()}; it is {status.phase or MachinePhase.PENDING}{why}"
        )
        operation.condition(COMPLETED, False, "InProgress", message)
        return _POLL_S

    def _give_way(
        self, operation: Subject[OperationStatus], spec: OperationSpec, request: PowerRequest
    ) -> float | None:
        message = f"operation {request.name!r} took its place{' by force' if request.force else ''}"
        if spec.type is OperationType.STOP and request.type is OperationType.STOP:
            return self._complete(operation, "Superseded", message)
        return self._fail(operation, "Superseded", message)

    def _hand_over(self, operation: Subject[OperationStatus], spec: OperationSpec, machine: Object) -> None:
        pod = self._cluster.get(POD, active_pod_name(machine), operation.namespace)
        request = PowerRequest(
            uid=operation.uid,
            name=operation.name,
            type=spec.type,
            force=spec.force,
            pod=pod["metadata"]["uid"] if pod else "",
        )
        changed = copy.deepcopy(machine)
        changed["metadata"].setdefault("annotations", {})[REQUEST_ANNOTATION] = write_request(request)
        try:
            self._cluster.update(MACHINE, changed)
        except ClusterError as exc:
            what = f"the request cannot be handed to VirtualMachine {machine['metadata']['name']!r}"
            raise exc.during(what) from exc

    def _withdraw(self, operation: Subject[OperationStatus], machine: Object | None) -> None:
        """Make room for the next operation. Idempotent."""
        request = read_request(machine) if machine is not None else None
        if machine is None or request is None or request.uid != operation.uid:
            return
        changed = copy.deepcopy(machine)
        del changed["metadata"]["annotations"][REQUEST_ANNOTATION]
        try:
            self._cluster.update(MACHINE, changed)
        except ClusterError as exc:
            what = f"the request cannot be taken back from VirtualMachine {machine['metadata']['name']!r}"
            raise exc.during(what) from exc

    def _left_s(self, operation: Subject[OperationStatus]) -> float:
        """How much longer an operation that has ended is kept."""
        ended = find_condition(operation.status.conditions, COMPLETED)
        left = read_time(ended.last_transition_time) + self._ttl - self._clock() if ended else timedelta()
        return left.total_seconds()

    def _complete(self, operation: Subject[OperationStatus], reason: str, message: str) -> float | None:
        operation.status.phase = OperationPhase.COMPLETED
        operation.condition(COMPLETED, True, reason, message)
        return None

    def _fail(self, operation: Subject[OperationStatus], reason: str, message: str) -> float | None:
        operation.status.phase = OperationPhase.FAILED
        operation.status.failure_reason, operation.status.failure_message = reason, message
        operation.condition(COMPLETED, False, reason, message)
        return None
