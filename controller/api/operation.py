"""VirtualMachineOperation."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from controller.api.model import ApiModel, ChangeRule, Condition, ModelRule
from controller.api.rules import Rule, fixed
from controller.api.text import ObjectName


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
    rules: ClassVar[tuple[ModelRule, ...]] = (
        Rule(
            f"!self.force || self.type != '{OperationType.START}'",
            lambda spec: not spec.force or spec.type is not OperationType.START,
            "must not be set with spec.type Start: there is nothing to force",
            "force",
        ),
    )
    changes: ClassVar[tuple[ChangeRule, ...]] = fixed()
    type: OperationType
    virtual_machine_name: ObjectName
    force: bool = False


class OperationStatus(ApiModel):
    phase: OperationPhase | None = None
    failure_reason: str | None = None
    failure_message: str | None = None
    conditions: list[Condition] = Field(default_factory=list)
    observed_generation: int | None = None
