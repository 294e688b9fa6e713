"""VirtualMachineOperation."""

import copy

from controller.api.machine import MachinePhase, MachineSpec, MachineStatus
from controller.api.operation import OperationPhase, OperationSpec, OperationStatus
from controller.api.resource import MACHINE, OPERATION, POD
from controller.machines.pod import pod_name
from controller.machines.request import REQUEST_ANNOTATION, PowerRequest, read_request, write_request
from controller.operations.table import refusal
from controller.runtime.conditions import Clock, utc_now
from controller.runtime.informer import Key, Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import Subject

COMPLETED = "Completed"
_ENDED = (OperationPhase.COMPLETED, OperationPhase.FAILED)
_POLL_S = 5.0


class OperationReconciler:
    """Hands operations to their machines one at a time, and waits for the effect."""

    def __init__(self, cluster: ClusterPort, clock: Clock = utc_now) -> None:
        self._cluster = cluster
        self._clock = clock

    def reconcile(self, key: Key) -> float | None:
        obj = self._cluster.get(OPERATION, key[1], key[0])
        if obj is None:
            return None
        operation = Subject(self._cluster, OPERATION, obj, OperationStatus, self._clock)
        spec = OperationSpec.read(obj["spec"])
        machine = self._cluster.get(MACHINE, spec.virtual_machine_name, key[0])
        if operation.deleting or operation.status.phase in _ENDED:
            self._withdraw(operation, machine)
            if operation.deleting:
                operation.let_go()
            return None
        # Deleted half-way, an operation must still take its request back.
        operation.hold()
        again_s = self._carry_out(operation, spec, machine)
        operation.save()
        if operation.status.phase in _ENDED:
            self._withdraw(operation, machine)
        return again_s

    def _carry_out(
        self, operation: Subject[OperationStatus], spec: OperationSpec, machine: Object | None
    ) -> float | None:
        if machine is None or "deletionTimestamp" in machine["metadata"]:
            message = f"there is no VirtualMachine {spec.virtual_machine_name!r}"
            self._fail(operation, "VirtualMachineNotFound", message)
            return None
        status = MachineStatus.read(machine.get("status"))
        if status.power is not None and status.power.operation == operation.uid:
            operation.status.phase = OperationPhase.COMPLETED
            operation.condition(COMPLETED, True, "Completed", f"{spec.type.value} is done")
            return None
        request = read_request(machine)
        if request is not None and request.uid != operation.uid:
            operation.status.phase = OperationPhase.PENDING
            operation.condition(COMPLETED, False, "OtherOperationInProgress", f"waits for operation {request.name!r}")
            return _POLL_S
        if request is None:
            machine_spec = MachineSpec.read(machine["spec"])
            refused = refusal(spec.type, machine_spec.run_policy, status.phase or MachinePhase.PENDING)
            if refused is not None:
                self._fail(operation, refused.reason, refused.message)
                return None
            self._hand_over(operation, spec, machine)
        operation.status.phase = OperationPhase.IN_PROGRESS
        operation.condition(COMPLETED, False, "InProgress", f"waits for the machine to {spec.type.value.lower()}")
        return _POLL_S

    def _hand_over(self, operation: Subject[OperationStatus], spec: OperationSpec, machine: Object) -> None:
        pod = self._cluster.get(POD, pod_name(spec.virtual_machine_name), operation.namespace)
        request = PowerRequest(
            uid=operation.uid,
            name=operation.name,
            type=spec.type,
            force=spec.force,
            pod=pod["metadata"]["uid"] if pod else "",
        )
        changed = copy.deepcopy(machine)
        changed["metadata"].setdefault("annotations", {})[REQUEST_ANNOTATION] = write_request(request)
        self._cluster.update(MACHINE, changed)

    def _withdraw(self, operation: Subject[OperationStatus], machine: Object | None) -> None:
        """Make room for the next operation. Idempotent."""
        request = read_request(machine) if machine is not None else None
        if machine is None or request is None or request.uid != operation.uid:
            return
        changed = copy.deepcopy(machine)
        del changed["metadata"]["annotations"][REQUEST_ANNOTATION]
        self._cluster.update(MACHINE, changed)

    def _fail(self, operation: Subject[OperationStatus], reason: str, message: str) -> None:
        operation.status.phase = OperationPhase.FAILED
        operation.status.failure_reason, operation.status.failure_message = reason, message
        operation.condition(COMPLETED, False, reason, message)
