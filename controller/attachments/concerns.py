"""Which attachments and machines a change concerns."""

from collections.abc import Iterable, Iterator

from controller.api.resource import ATTACHMENT
from controller.runtime.index import Index, Key, Object, key_of
from controller.runtime.port import ClusterReader


def attachments_of_disk(key: Key, cluster: ClusterReader) -> Iterable[Key]:
    """The attachments of a disk that changed."""
    return [key_of(attachment) for attachment in cluster.find(_BY_DISK, key)]


def attachments_of_machine(key: Key, cluster: ClusterReader) -> Iterable[Key]:
    """The attachments to a machine that changed, and those that leave it."""
    return [key_of(attachment) for attachment in cluster.find(BY_MACHINE, key)]


def rivals(key: Key, cluster: ClusterReader) -> Iterable[Key]:
    """The other attachments of the disk of one that changed."""
    return [other for disk in _disk(key, cluster) for other in attachments_of_disk(disk, cluster) if other != key]


def machines_of_attachment(key: Key, cluster: ClusterReader) -> Iterable[Key]:
    """The machine that is to get the disk, and the one that has it."""
    attachment = cluster.get(ATTACHMENT, key[1], key[0])
    return [] if attachment is None else _machines_of(attachment)


def machines_of_disk(key: Key, cluster: ClusterReader) -> Iterable[Key]:
    """The machines that a disk is attached to."""
    return [machine for attachment in cluster.find(_BY_DISK, key) for machine in _machines_of(attachment)]


def _disk(key: Key, cluster: ClusterReader) -> Iterable[Key]:
    attachment = cluster.get(ATTACHMENT, key[1], key[0])
    return [] if attachment is None else _disk_of(attachment)


def _disk_of(attachment: Object) -> Iterator[Key]:
    yield attachment["metadata"]["namespace"], attachment["spec"]["blockDevice"]["virtualMachineDisk"]["name"]


def _machines_of(attachment: Object) -> Iterator[Key]:
    names = {attachment["spec"]["virtualMachineName"], (attachment.get("status") or {}).get("virtualMachineName")}
    for name in names - {None, ""}:
        yield attachment["metadata"]["namespace"], name


BY_MACHINE = Index(ATTACHMENT, _machines_of)
"""Attachments by the machines that are to get the disk, or have it."""
_BY_DISK = Index(ATTACHMENT, _disk_of)
