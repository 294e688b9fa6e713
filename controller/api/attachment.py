"""VirtualMachineBlockDeviceAttachment."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from controller.api.data_source import Named, check_name
from controller.api.model import ApiModel, Condition, FieldError


class AttachableType(StrEnum):
    DISK = "VirtualMachineDisk"


class AttachableDevice(ApiModel):
    type: AttachableType
    virtual_machine_disk: Named | None = None


class AttachmentSpec(ApiModel):
    virtual_machine_name: str
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


def check_attachment(spec: AttachmentSpec, obj: dict[str, Any], old: dict[str, Any] | None) -> list[FieldError]:
    """The rules of an attachment: the disk stays, the machine may change."""
    if old is not None and obj["spec"].get("blockDevice") != old["spec"].get("blockDevice"):
        message = "cannot be changed after creation; make another attachment for another disk"
        return [FieldError("spec.blockDevice", message)]
    path = "spec.blockDevice.virtualMachineDisk"
    errors = check_name(spec.virtual_machine_name, "spec.virtualMachineName")
    if spec.block_device.virtual_machine_disk is None:
        return [*errors, FieldError(path, f"required when spec.blockDevice.type is {spec.block_device.type.value}")]
    return errors + check_name(spec.disk, f"{path}.name")
