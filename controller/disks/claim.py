"""The PersistentVolumeClaim of a disk; its annotation pins the image that the disk starts from."""

from dataclasses import dataclass

from controller.api.quantity import format_bytes, parse_bytes
from controller.api.resource import GROUP
from controller.runtime.informer import Object

IMAGE_ANNOTATION = f"{GROUP}/image"
"""`repository@digest` of the artifact; absent for a disk that starts empty."""


@dataclass(frozen=True)
class DiskOrigin:
    """The artifact that a disk starts from."""

    repository: str
    digest: str
    virtual_size_bytes: int


def claim_name(disk: str) -> str:
    """Name of the claim of a disk."""
    return f"vmd-{disk}"


def disk_name(claim: str) -> str | None:
    """The inverse; None if the claim is not of a disk."""
    return claim.removeprefix("vmd-") if claim.startswith("vmd-") else None


def build_claim(
    disk: str, namespace: str, owner: Object, size_bytes: int, storage_class: str | None, origin: DiskOrigin | None
) -> Object:
    """The claim as it is to be created."""
    annotations = {IMAGE_ANNOTATION: f"{origin.repository}@{origin.digest}"} if origin else {}
    spec: Object = {
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": format_bytes(size_bytes)}},
    }
    if storage_class:
        spec["storageClassName"] = storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": claim_name(disk),
            "namespace": namespace,
            "annotations": annotations,
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


def requested_bytes(claim: Object) -> int:
    """The size that was asked for: the virtual size of the disk."""
    return parse_bytes(claim["spec"]["resources"]["requests"]["storage"])


def provided_bytes(claim: Object) -> int:
    """The size that there is; 0 before the claim is bound."""
    capacity = (claim.get("status") or {}).get("capacity") or {}
    return parse_bytes(capacity.get("storage", 0))


def is_bound(claim: Object) -> bool:
    """Whether a volume stands behind the claim."""
    return (claim.get("status") or {}).get("phase") == "Bound"


def pinned_image(claim: Object) -> tuple[str, str] | None:
    """Repository and digest of the artifact that the disk starts from."""
    image = (claim["metadata"].get("annotations") or {}).get(IMAGE_ANNOTATION)
    if not image:
        return None
    repository, _, digest = image.partition("@")
    return repository, digest
