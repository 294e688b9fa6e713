"""What a disk starts from: nothing, an image that exists, or bytes that are imported for it alone."""

from dataclasses import dataclass

from controller.api.data_source import DataSource, DiskSourceType
from controller.api.disk import DiskStatus
from controller.api.reference import named_in
from controller.disks.claim import DiskOrigin
from controller.images.existing import ExistingImages, NotThere
from controller.images.importing import ImageImport, ImportState, ImportTarget
from controller.images.registry import Artifact
from controller.images.retrying import tell_retrying
from controller.runtime.subject import Subject


@dataclass(frozen=True)
class Waiting:
    """The origin is not there yet, or never will be (`failed`)."""

    reason: str
    message: str
    again_s: float | None = None
    failed: bool = False
    upload: bool = False
    importing: bool = False


def import_target(disk: Subject[DiskStatus]) -> ImportTarget:
    """Where the artifact of a disk that imports for itself is kept."""
    return ImportTarget(f"vmd/{disk.namespace}/{disk.name}", disk.uid, disk.namespace or "")


def find_origin(
    images: ExistingImages, imports: ImageImport, disk: Subject[DiskStatus], source: DataSource
) -> DiskOrigin | Waiting:
    """The artifact to start from, bringing an import forward if that is what it takes."""
    if source.type in (DiskSourceType.IMAGE, DiskSourceType.CLUSTER_IMAGE):
        return _existing(images, disk, source)
    target = import_target(disk)
    outcome = imports.advance(target, source, disk.status, disk.identity)
    tell_retrying(disk, outcome)
    if outcome.image is not None:
        return _origin(outcome.image, target.repository)
    return Waiting(
        outcome.reason,
        outcome.message,
        outcome.again_s,
        failed=outcome.state is ImportState.FAILED,
        upload=outcome.state is ImportState.WAIT_FOR_UPLOAD,
        importing=outcome.state is ImportState.RUNNING,
    )


def _existing(images: ExistingImages, disk: Subject[DiskStatus], source: DataSource) -> DiskOrigin | Waiting:
    (image,) = named_in(source.write(), disk.namespace or "")
    stored = images.find(image, disk.identity)
    if isinstance(stored, NotThere):
        return Waiting(stored.reason, stored.message, stored.again_s)
    return _origin(stored, stored.repository)


def _origin(stored: Artifact, repository: str) -> DiskOrigin:
    return DiskOrigin(repository, str(stored.digest), stored.virtual_size_bytes)
