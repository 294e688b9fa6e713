"""Disks that are not copied whole, and whose bytes are in the registry no more.

The disk says it in a condition, by which its machines go.
"""

from controller.api.disk import DiskStatus
from controller.api.image import ImagePhase
from controller.api.resource import Resource
from controller.disks.claim import pinned_image, stands_alone
from controller.disks.origin import import_target
from controller.images.existing import IMAGE_LOST, NotThere, image_in, phase_of
from controller.images.importing import ImageImport
from controller.runtime.index import Key, Object
from controller.runtime.port import ClusterReader
from controller.runtime.subject import Subject

IMAGE_AVAILABLE = "ImageAvailable"
"""The condition of a disk whose image was lost before it was copied."""
_UNCOPIED = "what has not been copied of it is nowhere else"


def loss_of_image(cluster: ClusterReader, resource: Resource, key: Key) -> NotThere | None:
    """The loss of that image, if it is lost."""
    image = cluster.get(resource, key[1], key[0] or None)
    if image is None or phase_of(image) != ImagePhase.IMAGE_LOST:
        return None
    label = f"{resource.kind} {key[1]!r}"
    return NotThere(IMAGE_LOST, f"{label} is lost: push its artifact to the registry again")


def imports_for_itself(claim: Object) -> bool:
    """Whether the disk in the claim still reads from an artifact that is no image's, and nobody else looks for."""
    pinned = None if stands_alone(claim) else pinned_image(claim)
    return pinned is not None and image_in(pinned[0]) is None


def find_loss(
    cluster: ClusterReader, imports: ImageImport, disk: Subject[DiskStatus], claim: Object
) -> NotThere | None:
    """The loss of what the disk in the claim still reads from; RegistryError where the registry does not answer."""
    pinned = None if stands_alone(claim) else pinned_image(claim)
    if pinned is None:
        return None
    image = image_in(pinned[0])
    if image is not None:
        loss = loss_of_image(cluster, *image)
        return NotThere(loss.reason, f"{_UNCOPIED}, and {loss.message}") if loss else None
    target = import_target(disk)
    if imports.find(target) is not None:
        return None
    where = f"{target.repository}:{target.uid} is not in the registry any more"
    return NotThere(IMAGE_LOST, f"{_UNCOPIED}, and {where}; push it again, or create the disk again")


def told_loss(disk: Object) -> NotThere | None:
    """What the disk's condition says of it."""
    for condition in (disk.get("status") or {}).get("conditions") or ():
        if condition["type"] == IMAGE_AVAILABLE and condition["status"] == "False":
            return NotThere(condition["reason"], condition["message"])
    return None
