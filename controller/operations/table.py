"""Which operation is allowed when, and which one may push another aside. Pure."""

from dataclasses import dataclass

from controller.api.machine import MachinePhase, RunPolicy
from controller.api.operation import OperationType
from controller.machines.request import PowerRequest

_SWITCHABLE = frozenset({RunPolicy.MANUAL, RunPolicy.ALWAYS_ON_UNLESS_STOPPED_MANUALLY})
_WITH_POD = frozenset({MachinePhase.SCHEDULING, MachinePhase.STARTING, MachinePhase.RUNNING, MachinePhase.PAUSE})
_MOVABLE = frozenset({MachinePhase.RUNNING})
_FORCED = frozenset({MachinePhase.STOPPING, MachinePhase.MIGRATING})


@dataclass(frozen=True)
class Rule:
    """When an operation is allowed."""

    policies: frozenset[RunPolicy]
    phases: frozenset[MachinePhase]
    forced_phases: frozenset[MachinePhase] = frozenset()
    """Where `force` also helps."""
    displaces: frozenset[OperationType] = frozenset()
    """Operations that it takes the place of."""
    displaces_by_force: frozenset[OperationType] = frozenset()
    """Operations without `force` that one with `force` takes the place of."""


RULES = {
    OperationType.START: Rule(_SWITCHABLE, frozenset({MachinePhase.STOPPED, MachinePhase.FAILED})),
    OperationType.STOP: Rule(
        _SWITCHABLE,
        _WITH_POD | {MachinePhase.PENDING, MachinePhase.FAILED},
        _FORCED,
        # A start may wait without end for what the machine needs.
        frozenset({OperationType.START}),
        frozenset({OperationType.STOP, OperationType.RESTART, OperationType.MIGRATE, OperationType.EVICT}),
    ),
    OperationType.RESTART: Rule(
        _SWITCHABLE | {RunPolicy.ALWAYS_ON},
        _WITH_POD | {MachinePhase.FAILED},
        _FORCED,
        displaces_by_force=frozenset({OperationType.RESTART, OperationType.MIGRATE, OperationType.EVICT}),
    ),
    OperationType.MIGRATE: Rule(_SWITCHABLE | {RunPolicy.ALWAYS_ON}, _MOVABLE),
    OperationType.EVICT: Rule(_SWITCHABLE | {RunPolicy.ALWAYS_ON}, _MOVABLE),
}


@dataclass(frozen=True)
class Refusal:
    """Why an operation cannot be carried out."""

    reason: str
    message: str


def refused_by_policy(operation: OperationType, policy: RunPolicy) -> Refusal | None:
    """None if the run policy allows the operation."""
    rule = RULES.get(operation)
    if rule is None:
        return Refusal("OperationNotSupported", f"{operation.value} is not supported yet")
    if policy in rule.policies:
        return None
    allowed = ", ".join(sorted(rule.policies))
    message = f"{operation.value} is not allowed with run policy {policy.value}, only with {allowed}"
    return Refusal("NotAllowedByRunPolicy", message)


def refusal(operation: OperationType, policy: RunPolicy, phase: MachinePhase, *, force: bool = False) -> Refusal | None:
    """None if the operation is allowed."""
    refused = refused_by_policy(operation, policy)
    if refused is not None:
        return refused
    rule = RULES[operation]
    phases = rule.phases | (rule.forced_phases if force else frozenset())
    if phase in phases:
        return None
    allowed = ", ".join(sorted(phases))
    message = f"{operation.value} is not allowed while the machine is {phase.value}, only while it is {allowed}"
    return Refusal("NotAllowedInPhase", message)


def displaces(operation: OperationType, current: PowerRequest, *, force: bool) -> bool:
    """Whether the operation takes the place of the one that the machine is carrying out, instead of waiting for it."""
    rule = RULES.get(operation)
    if rule is None:
        return False
    return current.type in rule.displaces or (force and not current.force and current.type in rule.displaces_by_force)
