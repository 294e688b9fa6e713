"""Images that others start from: where their artifacts are, and whether they are there."""

from dataclasses import dataclass

from controller.api.image import ImagePhase
from controller.api.resource import CLUSTER_IMAGE, IMAGE, Resource
from controller.images.registry import Artifact, ImageRegistry
from controller.images.reservations import Reservations
from controller.runtime.conditions import waits_for
from controller.runtime.index import Identity, Object
from controller.runtime.port import ClusterReader

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


def image_in(repository: str) -> Identity | None:
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


class ExistingImages:
    """The images of a cluster, for what starts from them."""

    def __init__(self, cluster: ClusterReader, registry: ImageRegistry, reservations: Reservations) -> None:
        self._cluster = cluster
        self._registry = registry
        self._reservations = reservations

    def find(self, image: Identity, user: Identity) -> Artifact | NotThere:
        """The artifact of an image that is Ready; it stays for the user, an object whose pass is under way.

        Raises RegistryError.
        """
        self._reservations.reserve(image, user)
        found = self._find(image)
        if isinstance(found, NotThere):
            self._reservations.withdraw(image, user)
        return found

    def _find(self, image: Identity) -> Artifact | NotThere:
        resource, (namespace, name) = image
        obj = self._cluster.get(resource, name, namespace or None)
        label = f"{resource.kind} {name!r}"
        if obj is None:
            return NotThere("ImageNotFound", f"waits for {label}, which does not exist")
        phase = phase_of(obj)
        if phase != ImagePhase.READY:
            reason = IMAGE_LOST if phase == ImagePhase.IMAGE_LOST else "ImageNotReady"
            return NotThere(reason, waits_for(label, phase))
        stored = self._registry.find(repository_of(resource, name, namespace), obj["metadata"]["uid"])
        if stored is None:
            return NotThere("ImageNotReady", f"waits for {label}, whose bytes are not in the registry", again_s=30)
        return stored
