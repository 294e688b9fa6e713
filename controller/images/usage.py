"""Who needs the bytes of an image: machines that show it, disks that read from it, images that are made from it.

A disk reads from the image that its claim pins until it is known to stand alone. A machine that is on has what it was
started with, whatever its specification says by now.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from controller.api.image import ImagePhase
from controller.api.machine import BlockDevice, BlockDeviceType, MachinePhase
from controller.api.resource import CLUSTER_IMAGE, IMAGE, MACHINE, PVC, Resource
from controller.disks.claim import claim_name, disk_name, pinned_image, stands_alone
from controller.images.existing import image_in
from controller.runtime.informer import Key, Object
from dvcr.artifact.store import StoredImage

Read = Callable[[Resource], Iterable[Object]]
"""All objects of a kind, or those of them that may matter."""

_OFF = (None, MachinePhase.PENDING, MachinePhase.STOPPED, MachinePhase.FAILED)
_NAMED_AT_MOST = 10
_DEVICES = {BlockDeviceType.IMAGE: IMAGE, BlockDeviceType.CLUSTER_IMAGE: CLUSTER_IMAGE}
_SOURCES = {"virtualMachineImage": IMAGE, "clusterVirtualMachineImage": CLUSTER_IMAGE}


@dataclass(frozen=True)
class ImageUsage:
    """All in order, by namespace and name."""

    machines: tuple[Key, ...]
    """Those that show the image, and those on whose disks something is still read from it."""
    showing: tuple[Key, ...]
    """Machines that have the image itself as a block device."""
    reading: tuple[Key, ...]
    """Disks that do not stand alone."""
    made: tuple[tuple[str, Key], ...]
    """Kinds and keys of images that are being made from it."""

    def obstacle(self) -> str:
        """What the deletion of the image waits for, and what to do about it; empty: nothing."""
        waits = []
        if self.showing:
            whose = _named((MACHINE.kind, key) for key in self.showing)
            waits.append(f"for {whose} (take it out of blockDevices and restart, or delete the machine)")
        if self.reading:
            whose = _named(("VirtualMachineDisk", key) for key in self.reading)
            waits.append(f"for {whose} to be copied (run a machine on it until it is, or delete the disk)")
        if self.made:
            waits.append(f"for {_named(self.made)} to be made from it")
        return f"waits {'; '.join(waits)}" if waits else ""


def find_usage(read: Read, resource: Resource, key: Key, stored: StoredImage) -> ImageUsage:
    """Who uses an image of which this is in the registry."""
    artifact = (stored.repository, str(stored.digest))
    claims = {_key(claim): claim for claim in read(PVC) if pinned_image(claim) == artifact}
    reading = {claim_key for claim_key, claim in claims.items() if not stands_alone(claim)}
    showing, machines = set(), set()
    for machine in read(MACHINE):
        devices = list(_devices(machine))
        if (resource, key) in (_shown(machine, device) for device in devices):
            showing.add(_key(machine))
        if not reading.isdisjoint(_claims(machine, devices)):
            machines.add(_key(machine))
    made = {
        (kind.kind, _key(image))
        for kind in (IMAGE, CLUSTER_IMAGE)
        for image in read(kind)
        if (image.get("status") or {}).get("phase") == ImagePhase.PROVISIONING
        and _is_made_from(image, (resource, key), claims)
    }
    disks = ((namespace, disk_name(name) or name) for namespace, name in reading)
    return ImageUsage(
        tuple(sorted(machines | showing)), tuple(sorted(showing)), tuple(sorted(disks)), tuple(sorted(made))
    )


def images_of_machine(resource: Resource) -> Callable[[Key, Read], Iterable[Key]]:
    """The images that a machine which changed began or ceased to use: the others have nothing to tell."""

    def keys(key: Key, cached: Read) -> Iterable[Key]:
        machine = next((obj for obj in cached(MACHINE) if _key(obj) == key), None)
        used: set[tuple[Resource, Key] | None] = set()
        if machine is not None:
            devices = list(_devices(machine))
            names = set(_claims(machine, devices))
            claims = [obj for obj in cached(PVC) if _key(obj) in names and not stands_alone(obj)]
            used = {_shown(machine, device) for device in devices} | {_pinned(claim) for claim in claims}
        for image in cached(resource):
            told = (image.get("status") or {}).get("usedInVMs") or ()
            if (key in ((one["namespace"], one["name"]) for one in told)) != ((resource, _key(image)) in used):
                yield _key(image)

    return keys


def images_of_claim(resource: Resource) -> Callable[[Key, Read], Iterable[Key]]:
    """The image that a claim which changed pins; one that is gone may have been what a deletion waits for."""

    def keys(key: Key, cached: Read) -> Iterable[Key]:
        pinned = [_pinned(claim) for claim in cached(PVC) if _key(claim) == key]
        for image in cached(resource):
            if (resource, _key(image)) in pinned or "deletionTimestamp" in image["metadata"]:
                yield _key(image)

    return keys


def _devices(machine: Object) -> Iterator[BlockDevice]:
    """What the machine is to have, and what it has."""
    status = machine.get("status") or {}
    attached = () if status.get("phase") in _OFF else status.get("blockDevicesAttached") or ()
    for device in (*machine["spec"]["blockDevices"], *attached):
        yield BlockDevice.read(device)


def _shown(machine: Object, device: BlockDevice) -> tuple[Resource, Key] | None:
    resource = _DEVICES.get(device.type)
    if resource is None:
        return None
    return resource, (machine["metadata"]["namespace"] if resource.namespaced else "", device.name)


def _claims(machine: Object, devices: Iterable[BlockDevice]) -> Iterator[Key]:
    for device in devices:
        if device.type is BlockDeviceType.DISK:
            yield machine["metadata"]["namespace"], claim_name(device.name)


def _pinned(claim: Object) -> tuple[Resource, Key] | None:
    pinned = pinned_image(claim)
    return image_in(pinned[0]) if pinned else None


def _is_made_from(image: Object, origin: tuple[Resource, Key], claims: Iterable[Key]) -> bool:
    """Whether it is a copy of the origin, or made of a disk that starts from that."""
    source = (image.get("spec") or {}).get("dataSource") or {}
    own = image["metadata"].get("namespace", "")
    for block, resource in _SOURCES.items():
        named = source.get(block)
        if named and (resource, (named.get("namespace", own) if resource.namespaced else "", named["name"])) == origin:
            return True
    disk = source.get("virtualMachineDisk")
    return disk is not None and (disk.get("namespace", own), claim_name(disk["name"])) in claims


def _key(obj: Object) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _named(users: Iterable[tuple[str, Key]]) -> str:
    names = [f"{kind} {'/'.join(filter(None, key))!r}" for kind, key in users]
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
