"""Which attachments a machine takes. Pure.

of two for one disk: the one that has it, else the older one
a block device of a machine's spec is not for attaching, but one that is attached stays until the machine restarts
"""

from collections.abc import Iterable
from dataclasses import dataclass

from controller.api.attachment import AttachmentPhase, AttachmentSpec, AttachmentStatus
from controller.api.data_source import Named
from controller.api.machine import MAX_BLOCK_DEVICES, BlockDevice, BlockDeviceType
from controller.machines.pod import applied_spec
from controller.runtime.index import Object


@dataclass(frozen=True)
class Refusal:
    """Why an attachment is not carried out."""

    reason: str
    message: str


def refusal(
    attachment: Object, attachments: Iterable[Object], machines: Iterable[Object], pod: Object | None
) -> Refusal | None:
    """None if the machine takes the disk. All objects are of one namespace; `pod` is the one of the machine."""
    spec = AttachmentSpec.read(attachment["spec"])
    label = f"VirtualMachineDisk {spec.disk!r}"
    lists = {machine["metadata"]["name"]: machine["spec"] for machine in machines}
    own = lists.pop(spec.virtual_machine_name, None)
    if own is not None:
        if spec.disk in disks_of(own if pod is None else applied_spec(pod)):
            message = f"{label} is a block device of VirtualMachine {spec.virtual_machine_name!r} already"
            return Refusal("DiskInMachineSpec", message)
        if not own.get("enableParavirtualization", True):
            message = "disks are attached to the virtio bus; set enableParavirtualization of the machine"
            return Refusal("ParavirtualizationRequired", message)
    if _has_the_disk(attachment):
        return None
    before = [other for other in attachments if _comes_before(other, attachment)]
    for other in before:
        if AttachmentSpec.read(other["spec"]).disk == spec.disk:
            machine = AttachmentSpec.read(other["spec"]).virtual_machine_name
            kind, name = other["kind"], other["metadata"]["name"]
            return Refusal("DiskAttachedElsewhere", f"{kind} {name!r} attaches {label} to VirtualMachine {machine!r}")
    for name, other_spec in lists.items():
        if spec.disk in disks_of(other_spec):
            return Refusal("DiskAttachedElsewhere", f"{label} is a block device of VirtualMachine {name!r}")
    same = [o for o in before if AttachmentSpec.read(o["spec"]).virtual_machine_name == spec.virtual_machine_name]
    if len(same) >= MAX_BLOCK_DEVICES:
        message = f"VirtualMachine {spec.virtual_machine_name!r} has {MAX_BLOCK_DEVICES} attachments; remove one"
        return Refusal("TooManyAttachments", message)
    return None


def disk_device(attachment: Object) -> BlockDevice:
    """What is attached, as the block devices of a machine's spec name it."""
    disk = Named(name=AttachmentSpec.read(attachment["spec"]).disk)
    return BlockDevice(type=BlockDeviceType.DISK, virtual_machine_disk=disk)


def disks_of(machine_spec: Object) -> set[str]:
    """Names of the VirtualMachineDisks among the block devices of a machine's spec."""
    return {
        device["virtualMachineDisk"]["name"]
        for device in machine_spec.get("blockDevices") or ()
        if "virtualMachineDisk" in device
    }


def _comes_before(other: Object, attachment: Object) -> bool:
    if other["metadata"]["uid"] == attachment["metadata"]["uid"] or "deletionTimestamp" in other["metadata"]:
        return False
    return _has_the_disk(other) or _age(other) < _age(attachment)


def _has_the_disk(attachment: Object) -> bool:
    status = AttachmentStatus.read(attachment.get("status"))
    machine = AttachmentSpec.read(attachment["spec"]).virtual_machine_name
    return status.phase is AttachmentPhase.ATTACHED and status.virtual_machine_name == machine


def _age(attachment: Object) -> tuple[str, str]:
    return str(attachment["metadata"]["creationTimestamp"]), str(attachment["metadata"]["name"])
