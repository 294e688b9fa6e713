"""What depends on an image whose artifact is gone."""

from controller.api.image import ImagePhase
from controller.api.resource import Resource
from controller.disks.claim import pinned_image, stands_alone
from controller.images.existing import IMAGE_LOST, NotThere, image_in, phase_of
from controller.runtime.index import Key, Object
from controller.runtime.port import ClusterReader


def loss_of_image(cluster: ClusterReader, resource: Resource, key: Key) -> NotThere | None:
    """The loss of that image, if it is lost."""
    image = cluster.get(resource, key[1], key[0] or None)
    if image is None or phase_of(image) != ImagePhase.IMAGE_LOST:
        return None
    label = f"{resource.kind} {key[1]!r}"
    return NotThere(IMAGE_LOST, f"{label} is lost: push its artifact to the registry again")


def loss_of_claim(cluster: ClusterReader, claim: Object) -> NotThere | None:
    """The loss of the image that the disk in the claim still reads from."""
    pinned = None if stands_alone(claim) else pinned_image(claim)
    image = image_in(pinned[0]) if pinned else None
    loss = loss_of_image(cluster, *image) if image else None
    if loss is None:
        return None
    return NotThere(loss.reason, f"what has not been copied of it is nowhere else, and {loss.message}")
