"""Which operation is allowed when. Pure."""

from dataclasses import dataclass

from controller.api.machine import MachinePhase, RunPolicy
from controller.api.operation import OperationType

_SWITCHABLE = {RunPolicy.MANUAL, RunPolicy.ALWAYS_ON_UNLESS_STOPPED_MANUALLY}
_POLICIES = {
    OperationType.START: _SWITCHABLE,
    OperationType.STOP: _SWITCHABLE,
    OperationType.RESTART: _SWITCHABLE | {RunPolicy.ALWAYS_ON},
}
_OFF = {MachinePhase.STOPPED, MachinePhase.FAILED}
_ON = {
    MachinePhase.PENDING,
    MachinePhase.SCHEDULING,
    MachinePhase.STARTING,
    MachinePhase.RUNNING,
    MachinePhase.PAUSE,
    MachinePhase.FAILED,
}
_PHASES = {
    OperationType.START: _OFF,
    OperationType.STOP: _ON,
    OperationType.RESTART: _ON - {MachinePhase.FAILED, MachinePhase.PENDING},
}


@dataclass(frozen=True)
class Refusal:
    """Why an operation cannot be carried out."""

    reason: str
    message: str


def refusal(operation: OperationType, policy: RunPolicy, phase: MachinePhase) -> Refusal | None:
    """None if the operation is allowed."""
    if operation not in _POLICIES:
        return Refusal("OperationNotSupported", f"{operation.value} is not supported yet")
    if policy not in _POLICIES[operation]:
        return Refusal("NotAllowedByRunPolicy", f"{operation.value} is not allowed with run policy {policy.value}")
    if phase not in _PHASES[operation]:
        return Refusal("NotAllowedInPhase", f"{operation.value} is not allowed while the machine is {phase.value}")
    return None
