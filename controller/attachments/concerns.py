"""Which attachments and machines a change concerns, from what the informers have."""

from collections.abc import Callable, Iterable

from controller.api.resource import ATTACHMENT, Resource
from controller.runtime.informer import Key, Object

Cached = Callable[[Resource], Iterable[Object]]


def attachments_of_disk(key: Key, cached: Cached) -> Iterable[Key]:
    """The attachments of a disk that changed."""
    return [(key[0], name) for name, disk, _ in _attachments(key[0], cached) if disk == key[1]]


def attachments_of_machine(key: Key, cached: Cached) -> Iterable[Key]:
    """The attachments to a machine that changed, and those that leave it."""
    return [(key[0], name) for name, _, machines in _attachments(key[0], cached) if key[1] in machines]


def rivals(key: Key, cached: Cached) -> Iterable[Key]:
    """The other attachments of the disk of one that changed."""
    found = list(_attachments(key[0], cached))
    disks = {disk for name, disk, _ in found if name == key[1]}
    return [(key[0], name) for name, disk, _ in found if disk in disks and name != key[1]]


def machines_of_attachment(key: Key, cached: Cached) -> Iterable[Key]:
    """The machine that is to get the disk, and the one that has it."""
    return [(key[0], m) for name, _, machines in _attachments(key[0], cached) if name == key[1] for m in machines]


def machines_of_disk(key: Key, cached: Cached) -> Iterable[Key]:
    """The machines that a disk is attached to."""
    return [(key[0], m) for _, disk, machines in _attachments(key[0], cached) if disk == key[1] for m in machines]


def _attachments(namespace: str, cached: Cached) -> Iterable[tuple[str, str, set[str]]]:
    """Name, disk and machines of each attachment in the namespace."""
    for obj in cached(ATTACHMENT):
        if obj["metadata"]["namespace"] == namespace:
            spec = obj["spec"]
            machines = {spec["virtualMachineName"], (obj.get("status") or {}).get("virtualMachineName", "")} - {""}
            yield obj["metadata"]["name"], spec["blockDevice"]["virtualMachineDisk"]["name"], machines
