"""Changes of a machine's spec that a running machine cannot take over. Pure."""

from typing import Any

from controller.api.machine import PendingChange


def pending_changes(applied: dict[str, Any], desired: dict[str, Any], path: str = "") -> list[PendingChange]:
    """The differences, each at the deepest object that has it; lists count as one value."""
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
