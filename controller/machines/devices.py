"""From the block devices of a machine's spec to disks that a launcher can open."""

from controller.api.disk import DiskPhase
from controller.api.machine import NOT_BOOTABLE, AttachedDevice, BlockDevice, BlockDeviceType
from controller.api.quantity import format_bytes
from controller.api.reference import named_in
from controller.api.resource import DISK, PVC
from controller.disks.claim import claim_name, disk_bytes, is_block, pinned_image
from controller.disks.loss import told_loss
from controller.disks.usage import is_over, machine_of, phase_of, pods_using, user_of
from controller.images.existing import ExistingImages, NotThere
from controller.launcher.spec import DiskSpec, ImageReference
from controller.machines.launch import DISKS_FOLDER, Device, Launch, NotReady
from controller.machines.states import BLOCK_DEVICES_READY
from controller.machines.visit import Visit
from controller.runtime.conditions import waits_for
from controller.runtime.index import Identity
from controller.runtime.port import ClusterPort

_PREFIXES = {BlockDeviceType.DISK: "vmd", BlockDeviceType.IMAGE: "vmi", BlockDeviceType.CLUSTER_IMAGE: "cvmi"}


class BlockDevices:
    """The prerequisite: every block device of the spec is there."""

    def __init__(self, images: ExistingImages) -> None:
        self._images = images

    def __call__(self, visit: Visit, launch: Launch) -> NotReady | None:
        devices = resolve_devices(visit.cluster, self._images, visit.spec.block_devices, visit.machine.identity)
        if isinstance(devices, NotReady):
            visit.machine.condition(BLOCK_DEVICES_READY, False, devices.reason, devices.message)
            return devices
        visit.machine.condition(BLOCK_DEVICES_READY, True, "Ready", "all block devices can be attached")
        visit.status.block_devices_attached = [device.attached for device in devices]
        launch.devices = devices
        return None


def resolve_devices(
    cluster: ClusterPort, images: ExistingImages, devices: list[BlockDevice], machine: Identity
) -> list[Device] | NotReady:
    """All devices of the machine in boot order, or the first thing that is missing."""
    namespace, name = machine[1]
    resolved = []
    for index, device in enumerate(devices):
        if device.type is BlockDeviceType.DISK:
            found = resolve_disk(cluster, namespace, device, name)
        else:
            found = _image(images, device, machine)
        if isinstance(found, NotReady):
            return found
        if index == 0 and found.disk.kind == "image" and not found.disk.cdrom:
            return NotReady("ImageNotBootable", f"{device.type.value} {device.name!r} {NOT_BOOTABLE}")
        resolved.append(found)
    return resolved


def resolve_disk(cluster: ClusterPort, namespace: str, device: BlockDevice, machine: str) -> Device | NotReady:
    """The disk, if the machine can have it now."""
    label = f"VirtualMachineDisk {device.name!r}"
    disk = cluster.get(DISK, device.name, namespace)
    if disk is None:
        return NotReady("DiskNotFound", f"waits for {label}, which does not exist")
    phase = phase_of(disk)
    claim = cluster.get(PVC, claim_name(device.name), namespace)
    if phase not in (DiskPhase.READY, DiskPhase.RESIZING) or claim is None:
        return NotReady("DiskNotReady", waits_for(label, phase))
    for pod in pods_using(cluster, claim_name(device.name), namespace):
        if machine_of(pod) != machine and not is_over(pod):
            return NotReady("DiskInUse", f"waits until {user_of(pod)} does not use {label} any more")
    loss = told_loss(disk)
    if loss is not None:
        return NotReady(loss.reason, f"waits for {label}: {loss.message}")
    image = pinned_image(claim)
    size_bytes = disk_bytes(claim)
    spec = DiskSpec(
        name=device_name(device),
        kind="disk",
        path=f"{DISKS_FOLDER}/{device.name}/disk.qcow2",
        device=is_block(claim),
        size_bytes=size_bytes,
        image=ImageReference(repository=image[0], digest=image[1]) if image else None,
    )
    return Device(spec, _attached(device, size_bytes), claim_name(device.name), size_bytes if image else 0)


def unresolved_disk(device: BlockDevice) -> Device:
    """A disk that a machine has, whatever there is left of its resources."""
    path = f"{DISKS_FOLDER}/{device.name}/disk.qcow2"
    return Device(DiskSpec(name=device_name(device), kind="disk", path=path), _attached(device, 0))


def _image(images: ExistingImages, device: BlockDevice, machine: Identity) -> Device | NotReady:
    (image,) = named_in(device.write(), machine[1][0])
    stored = images.find(image, machine)
    if isinstance(stored, NotThere):
        return NotReady(stored.reason, stored.message)
    spec = DiskSpec(
        name=device_name(device),
        kind="image",
        image=ImageReference(repository=stored.repository, digest=str(stored.digest)),
        cdrom=stored.cdrom,
    )
    size_bytes = stored.virtual_size_bytes
    return Device(spec, _attached(device, size_bytes), image_bytes=size_bytes)


def device_of(name: str) -> BlockDevice:
    """The block device that a launcher knows by that name."""
    prefix, _, rest = name.partition("-")
    kind = next(kind for kind, known in _PREFIXES.items() if known == prefix)
    device = BlockDevice(type=kind)
    return BlockDevice.read({"type": kind, device.block: {"name": rest}})


def device_name(device: BlockDevice) -> str:
    """What a launcher calls the block device; for a disk, the name of its claim."""
    return f"{_PREFIXES[device.type]}-{device.name}"


def disk_device_name(disk: str) -> str:
    """What a machine calls a disk of that name."""
    return f"{_PREFIXES[BlockDeviceType.DISK]}-{disk}"


def _attached(device: BlockDevice, size_bytes: int) -> AttachedDevice:
    return AttachedDevice.read({**device.write(), "size": format_bytes(size_bytes)})
