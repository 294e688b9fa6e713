"""Who uses a disk: a claim is written to by one pod at a time, and not while it is captured.

A machine that is on has what it was started with, whatever its specification says by now.
"""

from collections.abc import Iterable, Iterator

from controller.api.disk import DiskPhase
from controller.api.machine import MachinePhase
from controller.api.pod_claims import claims_of, volume_claims
from controller.api.reference import named_in
from controller.api.resource import DISK, GROUP, MACHINE, POD, Resource
from controller.runtime.index import Index, Key, Object, key_of
from controller.runtime.port import ClusterReader
from dvcr.errors import ResourceError

CAPTURE_ANNOTATION = f"{GROUP}/captures-for"
"""On the pod that makes an image of a disk: the image, for people."""
_OFF = (None, MachinePhase.PENDING, MachinePhase.STOPPED, MachinePhase.FAILED)


def phase_of(disk: Object) -> str:
    """The phase that users of the disk go by: one that is to be deleted takes no new ones."""
    if "deletionTimestamp" in disk["metadata"]:
        return DiskPhase.TERMINATING
    return str((disk.get("status") or {}).get("phase", DiskPhase.PENDING))


def pods_using(cluster: ClusterReader, claim: str, namespace: str | None) -> list[Object]:
    """All pods that use the claim, by name."""
    return sorted(cluster.find(_BY_CLAIM, (namespace, claim)), key=lambda pod: str(pod["metadata"]["name"]))


def pods_of_machine(cluster: ClusterReader, machine: str, namespace: str | None) -> list[Object]:
    """All pods that run the machine, or did, or are to."""
    return cluster.find(_BY_MACHINE, (namespace, machine))


def machines_with(cluster: ClusterReader, resource: Resource, key: Key) -> list[Key]:
    """Machines that have the disk or image as a block device, or are to have it, by namespace and name."""
    return sorted({key_of(machine) for machine in cluster.find(_MACHINES_BY_DEVICE, (resource, key))})


def disks_of_machine(key: Key, cluster: ClusterReader) -> Iterable[Key]:
    """The disks that a machine which changed began or ceased to use: the others have nothing to tell."""
    machine = cluster.get(MACHINE, key[1], key[0])
    named = set(devices_of(machine)) if machine is not None else set()
    told = {key_of(disk) for disk in cluster.find(_DISKS_BY_MACHINE, key)}
    return {disk for resource, disk in named if resource == DISK} ^ told


def devices_of(machine: Object) -> Iterator[tuple[Resource, Key]]:
    """The disks and images that the machine is to have, and those that it has."""
    status = machine.get("status") or {}
    attached = () if status.get("phase") in _OFF else status.get("blockDevicesAttached") or ()
    for device in (*machine["spec"]["blockDevices"], *attached):
        yield from named_in(device, machine["metadata"]["namespace"])


def told_machines(used: Object) -> Iterator[Key]:
    """Of which machines a disk or image tells that they use it."""
    for machine in (used.get("status") or {}).get("usedInVMs") or ():
        yield machine["namespace"], machine["name"]


def is_over(pod: Object) -> bool:
    """Whether the pod's containers have ended for good."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def captured_for(pod: Object) -> str | None:
    """The image that the pod makes of its disk; None if it does not."""
    image: str | None = (pod["metadata"].get("annotations") or {}).get(CAPTURE_ANNOTATION)
    return image


def machine_of(pod: Object) -> str | None:
    """The VirtualMachine that the pod runs; None if it is none's."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((str(owner["name"]) for owner in owners if owner.get("kind") == MACHINE.kind), None)


def user_of(pod: Object) -> str:
    """Who uses the pod's disks, for people."""
    machine, captured = machine_of(pod), captured_for(pod)
    if machine is not None:
        return f"VirtualMachine {machine!r}"
    return f"the capture for {captured}" if captured else f"pod {pod['metadata']['name']!r}"


def _by_claim(pod: Object) -> Iterator[tuple[str, str]]:
    try:
        claims = claims_of(pod)
    except (ResourceError, ValueError):
        # Somebody broke the pod's annotations: it may use all that it was made with.
        claims = volume_claims(pod)
    for claim in claims:
        yield pod["metadata"]["namespace"], claim


def _by_machine(pod: Object) -> Iterator[tuple[str, str]]:
    machine = machine_of(pod)
    if machine is not None:
        yield pod["metadata"]["namespace"], machine


_BY_CLAIM = Index(POD, _by_claim)
_MACHINES_BY_DEVICE = Index(MACHINE, devices_of)
_DISKS_BY_MACHINE = Index(DISK, told_machines)
_BY_MACHINE = Index(POD, _by_machine)
