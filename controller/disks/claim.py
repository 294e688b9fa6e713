"""The PersistentVolumeClaim of a disk or an image; its annotation pins the artifact that the disk in it starts from."""

from dataclasses import dataclass

from controller.api.quantity import format_bytes, parse_bytes
from controller.api.resource import GROUP
from controller.disks.storage_class import VolumeProfile
from controller.runtime.index import Object

IMAGE_ANNOTATION = f"{GROUP}/image"
"""`repository@digest` of the artifact; absent for a disk that starts empty."""
FILLED_ANNOTATION = f"{GROUP}/filled"
"""The disk in the claim stands alone: its image is copied, and no longer read."""
SIZE_ANNOTATION = f"{GROUP}/disk-size"
"""Virtual size of the disk; the volume is larger, so that the disk fits when it is full."""
FILESYSTEM_PERMILLE = 55
"""What a file system may take for itself of its volume: as much as CDI allows for."""
_MIB = 2**20


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


def image_claim_name(image: str) -> str:
    """Name of the claim of an image."""
    return f"vmi-{image}"


def image_name(claim: str) -> str | None:
    """The inverse; None if the claim is not of an image."""
    return claim.removeprefix("vmi-") if claim.startswith("vmi-") else None


def build_claim(
    name: str,
    namespace: str,
    owner: Object,
    size_bytes: int,
    storage_class: str | None,
    profile: VolumeProfile,
    origin: DiskOrigin | None,
) -> Object:
    """The claim as it is to be created."""
    annotations = {IMAGE_ANNOTATION: f"{origin.repository}@{origin.digest}"} if origin else {}
    sizes = resized(profile.volume_mode, size_bytes)
    spec: Object = {"accessModes": [profile.access_mode], "volumeMode": profile.volume_mode, **sizes["spec"]}
    if storage_class:
        spec["storageClassName"] = storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": annotations | sizes["metadata"]["annotations"],
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


def resized(volume_mode: str, size_bytes: int) -> Object:
    """The part of a claim that says how large it is to be for a disk of that size."""
    # A qcow2 that is written all over is larger than what it holds: for every 64 KiB, 8 bytes say where they are and 2
    # how often they are used; a megabyte has room for its header and the tables of those.
    needed_bytes = size_bytes + size_bytes // 2**16 * 10 + _MIB
    if volume_mode != "Block":
        needed_bytes += needed_bytes * FILESYSTEM_PERMILLE // 1000
    storage = format_bytes(-(-needed_bytes // _MIB) * _MIB)
    return {
        "metadata": {"annotations": {SIZE_ANNOTATION: format_bytes(size_bytes)}},
        "spec": {"resources": {"requests": {"storage": storage}}},
    }


def is_block(claim: Object) -> bool:
    """Whether the volume is a device, not a folder."""
    return bool(claim["spec"].get("volumeMode") == "Block")


def disk_bytes(claim: Object) -> int:
    """The virtual size of the disk."""
    noted = (claim["metadata"].get("annotations") or {}).get(SIZE_ANNOTATION)
    return parse_bytes(noted) if noted else requested_bytes(claim)


def requested_bytes(claim: Object) -> int:
    """The size that was asked for."""
    return parse_bytes(claim["spec"]["resources"]["requests"]["storage"])


def provided_bytes(claim: Object) -> int:
    """The size that there is; 0 before the claim is bound."""
    capacity = (claim.get("status") or {}).get("capacity") or {}
    return parse_bytes(capacity.get("storage", 0))


def is_bound(claim: Object) -> bool:
    """Whether a volume stands behind the claim."""
    return (claim.get("status") or {}).get("phase") == "Bound"


def is_lost(claim: Object) -> bool:
    """Whether the volume that stood behind the claim is gone."""
    return (claim.get("status") or {}).get("phase") == "Lost"


def pinned_image(claim: Object) -> tuple[str, str] | None:
    """Repository and digest of the artifact that the disk starts from."""
    image = (claim["metadata"].get("annotations") or {}).get(IMAGE_ANNOTATION)
    if not image:
        return None
    repository, _, digest = image.partition("@")
    return repository, digest


def stands_alone(claim: Object) -> bool:
    """Whether the disk is known to need no image any more, or never needed one."""
    return pinned_image(claim) is None or FILLED_ANNOTATION in (claim["metadata"].get("annotations") or {})


def filled(claim: Object) -> Object:
    """The patch that notes for good that the disk in that very claim stands alone."""
    return {"metadata": {"uid": claim["metadata"]["uid"], "annotations": {FILLED_ANNOTATION: "true"}}}
