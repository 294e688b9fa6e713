"""Images that others start from: where their artifacts are, and whether they are there."""

from dataclasses import dataclass

from controller.api.image import ImagePhase
from controller.api.resource import CLUSTER_IMAGE, IMAGE, Resource
from controller.images.registry import Artifact, ImageRegistry
from controller.runtime.conditions import waits_for
from controller.runtime.index import Key, Object
from controller.runtime.port import ClusterPort

IMAGE_LOST = "ImageLost"
"""The reason of whatever waits for an image whose artifact is gone."""


@dataclass(frozen=True)
class NotThere:
    """What is waited for, in a machine's word and a sentence."""

    reason: str
    message: str
    again_s: float | None = None
    """None where a change of the object that is waited for tells."""


def repository_of(resource: Resource, name: str, namespace: str | None) -> str:
    """Where the artifact of an image is kept in the registry."""
    return f"vmi/{namespace}/{name}" if resource.namespaced else f"cvmi/{name}"


def image_in(repository: str) -> tuple[Resource, Key] | None:
    """The inverse: the image that is kept there; None if the repository is none of an image."""
    kind, _, rest = repository.partition("/")
    if kind == "cvmi":
        return CLUSTER_IMAGE, ("", rest)
    namespace, _, name = rest.partition("/")
    return (IMAGE, (namespace, name)) if kind == "vmi" else None


def phase_of(image: Object) -> str:
    """The phase that users of the image go by: one that is to be deleted takes no new ones."""
    if "deletionTimestamp" in image["metadata"]:
        return ImagePhase.TERMINATING
    return str((image.get("status") or {}).get("phase", ImagePhase.PENDING))


def find_image(
    cluster: ClusterPort, registry: ImageRegistry, resource: Resource, name: str, namespace: str | None
) -> Artifact | NotThere:
    """The artifact of an image that is Ready."""
    image = cluster.get(resource, name, namespace)
    label = f"{resource.kind} {name!r}"
    if image is None:
        return NotThere("ImageNotFound", f"waits for {label}, which does not exist")
    phase = phase_of(image)
    if phase != ImagePhase.READY:
        reason = IMAGE_LOST if phase == ImagePhase.IMAGE_LOST else "ImageNotReady"
        return NotThere(reason, waits_for(label, phase))
    stored = registry.find(repository_of(resource, name, namespace), image["metadata"]["uid"])
    if stored is None:
        return NotThere("ImageNotReady", f"waits for {label}, whose bytes are not in the registry", again_s=30)
    return stored
