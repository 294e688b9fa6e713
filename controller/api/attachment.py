"""VirtualMachineBlockDeviceAttachment."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from controller.api.data_source import Named
from controller.api.model import ApiModel, ChangeRule, Condition, ModelRule
from controller.api.rules import OneBlock, fixed
from controller.api.text import ObjectName


class AttachableType(StrEnum):
    DISK = "VirtualMachineDisk"


class AttachableDevice(ApiModel):
    rules: ClassVar[tuple[ModelRule, ...]] = (OneBlock({AttachableType.DISK: "virtualMachineDisk"}),)
    type: AttachableType
    virtual_machine_disk: Named | None = None


class AttachmentSpec(ApiModel):
    changes: ClassVar[tuple[ChangeRule, ...]] = fixed("blockDevice", hint="make another attachment for another disk")
    virtual_machine_name: ObjectName
    block_device: AttachableDevice

    @property
    def disk(self) -> str:
        """The VirtualMachineDisk's name."""
        named = self.block_device.virtual_machine_disk
        return named.name if named else ""


class AttachmentPhase(StrEnum):
    IN_PROGRESS = "InProgress"
    ATTACHED = "Attached"
    FAILED = "Failed"


class AttachmentStatus(ApiModel):
    phase: AttachmentPhase | None = None
    virtual_machine_name: str | None = None
    """The machine that has the disk now."""
    failure_reason: str | None = None
    failure_message: str | None = None
    conditions: list[Condition] = Field(default_factory=list)
    observed_generation: int | None = None
