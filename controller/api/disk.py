"""VirtualMachineDisk."""

from enum import StrEnum
from typing import Any

from controller.api.data_source import DiskDataSource, check_data_source
from controller.api.image import ImportStatus
from controller.api.model import ApiModel, FieldError, QuantityString
from controller.api.quantity import parse_bytes


class DiskPhase(StrEnum):
    PENDING = "Pending"
    WAIT_FOR_USER_UPLOAD = "WaitForUserUpload"
    PROVISIONING = "Provisioning"
    READY = "Ready"
    RESIZING = "Resizing"
    FAILED = "Failed"
    PVC_LOST = "PVCLost"
    TERMINATING = "Terminating"
    UNKNOWN = "Unknown"


class DiskClaim(ApiModel):
    size: QuantityString | None = None
    storage_class_name: str | None = None


class DiskProvisioning(StrEnum):
    """When the bytes of the image come into the disk."""

    LAZY = "Lazy"
    """While it is used; it is Ready at once."""
    EAGER = "Eager"
    """Before it is Ready."""


class DiskSpec(ApiModel):
    persistent_volume_claim: DiskClaim
    data_source: DiskDataSource | None = None
    provisioning: DiskProvisioning = DiskProvisioning.LAZY


class DiskStatus(ImportStatus):
    phase: DiskPhase | None = None
    capacity: str | None = None


def check_disk(spec: DiskSpec, obj: dict[str, Any], old: dict[str, Any] | None) -> list[FieldError]:
    """The rules of a disk: a size where it is needed, and nothing changes but the size, upwards."""
    errors = []
    path = "spec.persistentVolumeClaim.size"
    size = spec.persistent_volume_claim.size
    size_bytes = None
    if size is not None:
        try:
            size_bytes = parse_bytes(size)
        except ValueError as exc:
            errors.append(FieldError(path, str(exc)))
        else:
            if size_bytes == 0:
                errors.append(FieldError(path, "must be more than 0"))
    elif spec.data_source is None:
        errors.append(FieldError(path, "required for an empty disk (one without spec.dataSource)"))
    if old is None:
        if spec.data_source:
            errors += check_data_source(spec.data_source, "spec.dataSource")
        return errors
    before = DiskSpec.read(old["spec"])
    if obj["spec"].get("dataSource") != old["spec"].get("dataSource"):
        errors.append(FieldError("spec.dataSource", "cannot be changed after creation"))
    if spec.provisioning is not before.provisioning:
        errors.append(FieldError("spec.provisioning", "cannot be changed after creation"))
    if spec.persistent_volume_claim.storage_class_name != before.persistent_volume_claim.storage_class_name:
        errors.append(FieldError("spec.persistentVolumeClaim.storageClassName", "cannot be changed after creation"))
    old_size = before.persistent_volume_claim.size or (old.get("status") or {}).get("capacity")
    if before.persistent_volume_claim.size is not None and size is None:
        errors.append(FieldError(path, f"cannot be removed; it is {old_size}"))
    elif old_size is not None and size_bytes is not None and size_bytes < parse_bytes(old_size):
        errors.append(FieldError(path, f"a disk cannot shrink: {size} is less than {old_size}"))
    return errors
