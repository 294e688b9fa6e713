"""Who needs the bytes of an image: machines that show it, disks that read from it, images that are made from it.

A disk reads from the image that its claim pins until it is known to stand alone.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from controller.api.image import ImagePhase
from controller.api.reference import named_in
from controller.api.resource import CLUSTER_IMAGE, DISK, IMAGE, MACHINE, POD, PVC, Resource
from controller.disks.claim import claim_name, disk_name, pinned_image, stands_alone
from controller.disks.usage import devices_of, is_over, machine_of, machines_with, told_machines
from controller.images.existing import image_in
from controller.images.registry import Artifact
from controller.images.reservations import Reservations
from controller.machines.pod import applied_devices
from controller.runtime.index import Identity, Index, Key, Object, key_of
from controller.runtime.port import ClusterReader

_NAMED_AT_MOST = 10


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
    beginning: tuple[tuple[str, Key], ...]
    """Kinds and keys of objects that may begin to use it at this moment."""

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
        if self.beginning:
            waits.append(f"for {_named(self.beginning)}, which may have begun to use it just now")
        return f"waits {'; '.join(waits)}" if waits else ""


def find_usage(cluster: ClusterReader, reservations: Reservations, image: Identity, stored: Artifact) -> ImageUsage:
    """Who uses an image of which this is in the registry."""
    # First: what becomes of a reservation is seen in the cluster from then on.
    beginning = {(resource.kind, key) for resource, key in reservations.users(image)}
    claims = cluster.find(_CLAIMS_BY_IMAGE, (stored.repository, str(stored.digest)))
    reading = {key_of(claim) for claim in claims if disk_name(claim["metadata"]["name"]) and not stands_alone(claim)}
    pods = [pod for pod in cluster.find(_PODS_BY_DEVICE, image) if not is_over(pod)]
    started = {(pod["metadata"]["namespace"], machine) for pod in pods if (machine := machine_of(pod))}
    # A status that was not written, because the machine had changed, does not tell with what it was started.
    showing = {*machines_with(cluster, *image), *started}
    machines = {key_of(machine) for claim in reading for machine in cluster.find(_MACHINES_BY_CLAIM, claim)}
    origins = [image, *((PVC, key_of(claim)) for claim in claims)]
    made = {
        (kind.kind, key_of(copy))
        for kind, index in _IMAGES_BY_ORIGIN.items()
        for origin in origins
        for copy in cluster.find(index, origin)
        if (copy.get("status") or {}).get("phase") == ImagePhase.PROVISIONING
    }
    disks = ((namespace, disk_name(name) or name) for namespace, name in reading)
    return ImageUsage(
        tuple(sorted(machines | showing)),
        tuple(sorted(showing)),
        tuple(sorted(disks)),
        tuple(sorted(made)),
        tuple(sorted(beginning)),
    )


def images_of_machine(resource: Resource) -> Callable[[Key, ClusterReader], Iterable[Key]]:
    """The images that a machine which changed began or ceased to use: the others have nothing to tell."""

    def keys(key: Key, cluster: ClusterReader) -> Iterable[Key]:
        machine = cluster.get(MACHINE, key[1], key[0])
        used = set(devices_of(machine)) if machine is not None else set()
        for claim_key in _claims_of_machine(machine) if machine is not None else ():
            claim = cluster.get(PVC, claim_key[1], claim_key[0])
            if claim is not None and not stands_alone(claim):
                used |= set(_pinned(claim))
        wanted = {image for kind, image in used if kind == resource}
        told = {key_of(image) for image in cluster.find(_IMAGES_BY_MACHINE[resource], key)}
        return wanted ^ told

    return keys


def images_of_claim(resource: Resource) -> Callable[[Key, ClusterReader], Iterable[Key]]:
    """The image that a claim which changed pins."""

    def keys(key: Key, cluster: ClusterReader) -> Iterable[Key]:
        claim = cluster.get(PVC, key[1], key[0])
        if claim is not None:
            yield from (image for kind, image in _pinned(claim) if kind == resource)

    return keys


def _claims_of_machine(machine: Object) -> Iterator[Key]:
    for resource, (namespace, name) in devices_of(machine):
        if resource == DISK:
            yield namespace, claim_name(name)


def _pinned(claim: Object) -> Iterator[tuple[Resource, Key]]:
    pinned = pinned_image(claim)
    image = image_in(pinned[0]) if pinned else None
    if image is not None:
        yield image


def _pinned_artifact(claim: Object) -> Iterator[tuple[str, str]]:
    pinned = pinned_image(claim)
    if pinned is not None:
        yield pinned


def _devices_of_pod(pod: Object) -> Iterator[Identity]:
    for device in applied_devices(pod):
        yield from named_in(device.write(), pod["metadata"]["namespace"])


def _origins_of_image(image: Object) -> Iterator[tuple[Resource, Key]]:
    """The image that it is a copy of, or the claim of the disk that it is made of."""
    source = (image.get("spec") or {}).get("dataSource") or {}
    for resource, (namespace, name) in named_in(source, image["metadata"].get("namespace", "")):
        yield (PVC, (namespace, claim_name(name))) if resource == DISK else (resource, (namespace, name))


_IMAGES = (IMAGE, CLUSTER_IMAGE)
_CLAIMS_BY_IMAGE = Index(PVC, _pinned_artifact)
_MACHINES_BY_CLAIM = Index(MACHINE, _claims_of_machine)
_PODS_BY_DEVICE = Index(POD, _devices_of_pod)
_IMAGES_BY_ORIGIN = {resource: Index(resource, _origins_of_image) for resource in _IMAGES}
_IMAGES_BY_MACHINE = {resource: Index(resource, told_machines) for resource in _IMAGES}


def _named(users: Iterable[tuple[str, Key]]) -> str:
    names = [f"{kind} {'/'.join(filter(None, key))!r}" for kind, key in users]
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
