"""Changes of a machine's spec that a running machine cannot take over."""

from typing import Any

from controller.api.machine import PendingChange
from controller.machines.pod import applied_spec, restart_relevant
from controller.machines.states import CONFIGURATION_APPLIED
from controller.machines.visit import Flow, Visit


def list_changes(visit: Visit) -> Flow:
    """List the changes that wait for a restart."""
    if visit.pod is None:
        visit.status.restart_awaiting_changes = None
        visit.machine.condition(CONFIGURATION_APPLIED, False, "NotRunning", "the next start applies the present spec")
        return Flow.ON
    changes = pending_changes(applied_spec(visit.pod), restart_relevant(visit.spec))
    visit.status.restart_awaiting_changes = changes or None
    if changes:
        paths = ", ".join(change.path for change in changes)
        visit.machine.condition(CONFIGURATION_APPLIED, False, "RestartRequired", f"wait for a restart: {paths}")
    else:
        visit.machine.condition(CONFIGURATION_APPLIED, True, "Applied", "the machine runs with its present spec")
    return Flow.ON


def approved(visit: Visit) -> bool:
    """Whether a restart is to apply the changes at once."""
    return bool(visit.status.restart_awaiting_changes) and visit.spec.disruptions.restart_approval_mode == "Automatic"


def pending_changes(applied: dict[str, Any], desired: dict[str, Any], path: str = "") -> list[PendingChange]:
    """The differences, each at the deepest object that has it; lists count as one value. Pure."""
    changes = []
    for key in sorted(applied.keys() | desired.keys()):
        here = f"{path}.{key}" if path else key
        if key not in desired:
            changes.append(PendingChange(operation="remove", path=here, current_value=applied[key]))
        elif key not in applied:
            changes.append(PendingChange(operation="add", path=here, desired_value=desired[key]))
        elif isinstance(applied[key], dict) and isinstance(desired[key], dict):
            changes += pending_changes(applied[key], desired[key], here)
        elif applied[key] != desired[key]:
            changes.append(
                PendingChange(operation="replace", path=here, current_value=applied[key], desired_value=desired[key])
            )
    return changes
