"""The disks that attachments bring to a machine: plugged while it runs, and there when it starts again.

    attachments ──accepted, ready, free──▶ wanted ──▶ the pod's annotation, the node mounts ──▶ the launcher plugs
    gone or moved ──▶ the launcher unplugs ──▶ the pod lets go of the claim, which the next machine may take

A claim is named by the pod before the launcher hears of it, and for as long as the launcher has it: so it is protected
whenever a guest may write to it. The launcher is told all that is wanted in every pass, new sizes of disks too.
"""

from controller.api.attachment import AttachmentSpec
from controller.api.machine import AttachedDevice, BlockDeviceType
from controller.api.pod_claims import (
    AdditionalClaim,
    additional_claims,
    released_claims,
    volume_claims,
    write_claims,
)
from controller.api.quantity import format_bytes
from controller.api.resource import ATTACHMENT, MACHINE, POD
from controller.attachments.acceptance import disk_device, refusal
from controller.attachments.concerns import BY_MACHINE
from controller.disks.claim import disk_bytes, provided_bytes, requested_bytes
from controller.disks.mount import disk_folder
from controller.launcher.spec import CONTAINER_NAME, DiskSpec, DiskStatus, DiskWishes
from controller.launcher.spec import MachineStatus as LauncherState
from controller.machines.devices import device_name, device_of, resolve_disk, unresolved_disk
from controller.machines.launch import Device, Launch, NotReady
from controller.machines.launcher_status import LauncherStatus
from controller.machines.visit import Flow, Visit
from controller.runtime.index import Object

_UNSETTLED_S = 1.0


def attached_disks(visit: Visit, launch: Launch) -> NotReady | None:
    """The prerequisite that never holds a start up: what attachments bring is there from the start, if it can be."""
    launch.devices = [*launch.devices, *_wanted(visit)]
    visit.status.block_devices_attached = [device.attached for device in launch.devices]
    return None


class Plug:
    """The step that brings the disks of a running machine to what is wanted, and tells which block devices it has."""

    def __init__(self, launchers: LauncherStatus) -> None:
        self._launchers = launchers

    def __call__(self, visit: Visit) -> Flow:
        pod, launcher = visit.pod, visit.launcher
        if pod is None or launcher is None or not launcher.disks:
            return Flow.ON
        visit.status.block_devices_attached = [_attached(disk) for disk in launcher.disks if disk.attached]
        wanted = _wanted(visit)
        _name_claims(visit, pod, [device.disk for device in wanted], launcher)
        sizes = _sizes_bytes(visit, launcher)
        grows = any(sizes.get(disk.name, 0) > disk.size_bytes for disk in launcher.disks)
        plugged = {disk.name: disk.attached and not disk.message for disk in launcher.disks if disk.hotplug}
        if wanted or plugged or grows:
            wishes = DiskWishes(plugged=tuple(device.disk for device in wanted), sizes_bytes=sizes)
            self._launchers.want(pod, wishes)
        if grows or plugged != {device.disk.name: True for device in wanted}:
            visit.look_again(_UNSETTLED_S)
        return Flow.ON


def _wanted(visit: Visit) -> list[Device]:
    """What the machine can be given now of what is attached to it."""
    name, namespace = visit.machine.name, visit.machine.namespace or ""
    own = [
        attachment
        for attachment in visit.cluster.find(BY_MACHINE, (namespace, name))
        if "deletionTimestamp" not in attachment["metadata"]
        and AttachmentSpec.read(attachment["spec"]).virtual_machine_name == name
    ]
    if not own:
        return []
    attachments = [a for a in visit.cluster.list(ATTACHMENT, namespace) if "deletionTimestamp" not in a["metadata"]]
    machines = visit.cluster.list(MACHINE, namespace)
    held = {disk.name for disk in visit.launcher.disks if disk.hotplug and disk.attached} if visit.launcher else set()
    devices = []
    for attachment in sorted(own, key=lambda a: str(a["metadata"]["name"])):
        if refusal(attachment, attachments, machines, visit.pod) is None:
            device = disk_device(attachment)
            found = resolve_disk(visit.cluster, namespace, device, name)
            if isinstance(found, NotReady) and device_name(device) in held:
                # Whatever becomes of the disk, only its attachment takes it from a guest.
                found = unresolved_disk(device)
            if isinstance(found, Device):
                devices.append(found.on_a_port())
    return devices


def _name_claims(visit: Visit, pod: Object, wanted: list[DiskSpec], launcher: LauncherState) -> None:
    """Have the pod name the claims that it uses: those of its disks, and of those that it is to get."""
    # A disk goes by the name of its claim.
    held = {disk.name for disk in launcher.disks}
    volumes, named = volume_claims(pod), additional_claims(pod)
    additional = {name: claim for name, claim in named.items() if name in held}
    for disk in wanted:
        if disk.name not in volumes:
            additional.setdefault(disk.name, _additional(disk))
    released = volumes - held - {disk.name for disk in wanted}
    if additional != named or released != released_claims(pod):
        metadata = pod["metadata"]
        patch = {"metadata": {"uid": metadata["uid"], "annotations": write_claims(additional, released)}}
        visit.pod = visit.cluster.patch(POD, metadata["name"], patch, metadata["namespace"])


def _sizes_bytes(visit: Visit, launcher: LauncherState) -> dict[str, int]:
    """The sizes that the volumes of the machine's disks have room for."""
    sizes = {}
    for disk in launcher.disks:
        if disk.attached and device_of(disk.name).type is BlockDeviceType.DISK:
            claim = visit.claim(disk.name)
            if claim is not None and provided_bytes(claim) >= requested_bytes(claim):
                sizes[disk.name] = disk_bytes(claim)
    return sizes


def _additional(disk: DiskSpec) -> AdditionalClaim:
    if disk.device:
        return AdditionalClaim(container=CONTAINER_NAME, device_path=disk.path)
    return AdditionalClaim(container=CONTAINER_NAME, mount_path=disk_folder(disk))


def _attached(disk: DiskStatus) -> AttachedDevice:
    return AttachedDevice.read(
        device_of(disk.name).write()
        | {"target": disk.target or None, "size": format_bytes(disk.size_bytes), "hotpluggable": disk.hotplug}
    )
