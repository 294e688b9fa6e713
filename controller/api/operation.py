"""VirtualMachineOperation."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from controller.api.data_source import check_name
from controller.api.model import ApiModel, Condition, FieldError


class OperationType(StrEnum):
    START = "Start"
    STOP = "Stop"
    RESTART = "Restart"
    MIGRATE = "Migrate"
    EVICT = "Evict"


class OperationPhase(StrEnum):
    PENDING = "Pending"
    IN_PROGRESS = "InProgress"
    COMPLETED = "Completed"
    FAILED = "Failed"


class OperationSpec(ApiModel):
    type: OperationType
    virtual_machine_name: str
    force: bool = False


class OperationStatus(ApiModel):
    phase: OperationPhase | None = None
    failure_reason: str | None = None
    failure_message: str | None = None
    conditions: list[Condition] = Field(default_factory=list)
    observed_generation: int | None = None


def check_operation(spec: OperationSpec, obj: dict[str, Any], old: dict[str, Any] | None) -> list[FieldError]:
    """The rules of an operation."""
    if old is not None:
        return [] if obj["spec"] == old["spec"] else [FieldError("spec", "cannot be changed after creation")]
    errors = check_name(spec.virtual_machine_name, "spec.virtualMachineName")
    if spec.force and spec.type is OperationType.START:
        errors.append(FieldError("spec.force", "must not be set with spec.type Start: there is nothing to force"))
    return errors
