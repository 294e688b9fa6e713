"""VirtualMachine."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import Field

from controller.api.data_source import Named, block_of
from controller.api.model import ApiModel, Condition, FieldError, ModelRule, Preserved
from controller.api.rules import OneBlock, name_up_to
from controller.api.text import ObjectName, Size

MAX_BLOCK_DEVICES = 16
MACHINE_RULES = (name_up_to(63, "it becomes the guest's host name"),)
"""Of the whole machine."""
NOT_BOOTABLE = "is read-only and no CD-ROM: put a disk made of it first"
"""What is wrong with such an image as the first block device."""


class RunPolicy(StrEnum):
    ALWAYS_ON = "AlwaysOn"
    ALWAYS_OFF = "AlwaysOff"
    MANUAL = "Manual"
    ALWAYS_ON_UNLESS_STOPPED_MANUALLY = "AlwaysOnUnlessStoppedManually"


class MachinePhase(StrEnum):
    PENDING = "Pending"
    SCHEDULING = "Scheduling"
    STARTING = "Starting"
    RUNNING = "Running"
    MIGRATING = "Migrating"
    PAUSE = "Pause"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    TERMINATING = "Terminating"
    FAILED = "Failed"


class Cpu(ApiModel):
    cores: int = Field(ge=1)
    core_fraction: Literal["5%", "10%", "25%", "50%", "100%"] = "100%"
    model_name: str = "generic-v1"


class Memory(ApiModel):
    size: Size


class BlockDeviceType(StrEnum):
    DISK = "VirtualMachineDisk"
    IMAGE = "VirtualMachineImage"
    CLUSTER_IMAGE = "ClusterVirtualMachineImage"


class BlockDevice(ApiModel):
    rules: ClassVar[tuple[ModelRule, ...]] = (OneBlock({str(type_): block_of(type_) for type_ in BlockDeviceType}),)
    type: BlockDeviceType
    virtual_machine_disk: Named | None = None
    virtual_machine_image: Named | None = None
    cluster_virtual_machine_image: Named | None = None

    @property
    def block(self) -> str:
        """The name of the block that belongs to the type."""
        return block_of(self.type)

    @property
    def name(self) -> str:
        """Of the disk or image."""
        named = self.virtual_machine_disk or self.virtual_machine_image or self.cluster_virtual_machine_image
        return named.name if named else ""


class ProvisioningType(StrEnum):
    USER_DATA = "UserData"
    USER_DATA_SECRET = "UserDataSecret"  # noqa: S105
    SYSPREP_SECRET = "SysprepSecret"  # noqa: S105


class Provisioning(ApiModel):
    rules: ClassVar[tuple[ModelRule, ...]] = (
        OneBlock(
            {
                ProvisioningType.USER_DATA: "userData",
                ProvisioningType.USER_DATA_SECRET: "userDataSecretRef",
                ProvisioningType.SYSPREP_SECRET: "sysprepSecretRef",
            }
        ),
    )
    type: ProvisioningType
    user_data: str | None = None
    user_data_secret_ref: Named | None = None
    sysprep_secret_ref: Named | None = None


class Disruptions(ApiModel):
    restart_approval_mode: Literal["Manual", "Automatic"] = "Manual"


class OnceEach:
    """No disk or image is a block device twice."""

    def validations(self) -> list[dict[str, Any]]:
        cel = "self.blockDevices.all(device, self.blockDevices.exists_one(other, other == device))"
        return [{"rule": cel, "message": "must not name a disk or image twice", "fieldPath": ".blockDevices"}]

    def broken(self, value: "MachineSpec", path: str) -> Iterator[FieldError]:
        seen: dict[tuple[str, str], int] = {}
        for index, device in enumerate(value.block_devices):
            first = seen.setdefault((device.type, device.name), index)
            if device.name and first != index:
                message = f"{device.type} {device.name!r} is {path}.blockDevices[{first}] already"
                yield FieldError(f"{path}.blockDevices[{index}].{device.block}.name", message)


class MachineSpec(ApiModel):
    rules: ClassVar[tuple[ModelRule, ...]] = (OnceEach(),)
    run_policy: RunPolicy = RunPolicy.ALWAYS_ON_UNLESS_STOPPED_MANUALLY
    cpu: Cpu
    memory: Memory
    block_devices: list[BlockDevice] = Field(min_length=1, max_length=MAX_BLOCK_DEVICES)
    provisioning: Provisioning | None = None
    bootloader: Literal["BIOS", "EFI", "EFIWithSecureBoot"] = "BIOS"
    os_type: Literal["Generic", "Windows"] = "Generic"
    enable_paravirtualization: bool = True
    disruptions: Disruptions = Disruptions()
    termination_grace_period_seconds: int = Field(60, ge=0)
    node_selector: dict[str, str] | None = None
    affinity: Preserved | None = None
    tolerations: list[Preserved] | None = None
    topology_spread_constraints: list[Preserved] | None = None
    priority_class_name: str | None = None
    virtual_machine_ip_address_claim_name: ObjectName | None = Field(None, alias="virtualMachineIPAddressClaimName")


class AttachedDevice(ApiModel):
    type: BlockDeviceType
    virtual_machine_disk: Named | None = None
    virtual_machine_image: Named | None = None
    cluster_virtual_machine_image: Named | None = None
    target: str | None = None
    size: str | None = None
    hotpluggable: bool = False


class PendingChange(ApiModel):
    """A change of the spec that waits for a restart."""

    operation: Literal["add", "remove", "replace"]
    path: str
    current_value: Any | None = None
    desired_value: Any | None = None


class Power(ApiModel):
    """What the controller must remember of a machine while it has no pod."""

    desired: Literal["On", "Off"]
    """What operations and the guest left; decides with the policies Manual and AlwaysOnUnlessStoppedManually."""
    crashes: int | None = None
    """Consecutive crashes; they set the pause before the next start."""
    crashed_at: str | None = None
    ended_pod: str | None = None
    """UID of the pod whose end is remembered here, so that it counts once."""
    heard: str | None = None
    """UID of the Start or Restart that was taken up last; crashes are counted since."""
    operation: str | None = None
    """UID of the operation that was carried out last."""


class GuestInterface(ApiModel):
    """A network card and its addresses as the guest sees them."""

    name: str | None = None
    mac_address: str | None = None
    ip_addresses: list[str] | None = None


class MigrationPhase(StrEnum):
    PREPARING = "Preparing"
    """A pod on another node gets ready to take the machine in."""
    MOVING = "Moving"
    """The machine runs on while its memory is sent."""
    COMPLETED = "Completed"
    FAILED = "Failed"
    """The machine stayed where it was."""


class Migration(ApiModel):
    """The latest move of the machine to another node."""

    operation: str
    """UID of the operation that asked for it."""
    phase: MigrationPhase
    source_node: str
    source_pod: str
    target_pod: str
    target_uid: str | None = None
    """Of the pod, once it was made: one that is missing then is lost."""
    target_node: str | None = None
    reason: str | None = None
    message: str | None = None
    started_at: str
    ended_at: str | None = None
    downtime_milliseconds: int | None = None
    """How long the guest stood still."""
    total_milliseconds: int | None = None
    leftover: str | None = None
    """The pod that the machine no longer needs, until it is gone."""

    @property
    def under_way(self) -> bool:
        """Whether the machine may have two pods that matter."""
        return self.phase in (MigrationPhase.PREPARING, MigrationPhase.MOVING)


class MachineStatus(ApiModel):
    phase: MachinePhase | None = None
    node_name: str | None = None
    ip_address: str | None = None
    ip_address_claim: str | None = None
    guest_os_info: Preserved | None = Field(None, alias="guestOSInfo")
    block_devices_attached: list[AttachedDevice] | None = None
    guest_interfaces: list[GuestInterface] | None = None
    restart_awaiting_changes: list[PendingChange] | None = None
    message: str | None = None
    conditions: list[Condition] = Field(default_factory=list)
    observed_generation: int | None = None
    power: Power | None = None
    active_pod: str | None = None
    """The pod that runs the machine, if it is not the one that it was started in."""
    migration: Migration | None = None
