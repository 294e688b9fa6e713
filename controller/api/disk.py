"""VirtualMachineDisk."""

from enum import StrEnum
from typing import Any, ClassVar

from pydantic import Field

from controller.api.data_source import DiskDataSource
from controller.api.image import ImportStatus
from controller.api.model import ApiModel, ChangeRule, ModelRule
from controller.api.quantity import parse_bytes
from controller.api.rules import Change, Rule, fixed, name_up_to
from controller.api.text import Size

DISK_RULES = (name_up_to(249, "its PersistentVolumeClaim is named after it"),)
_SIZE = "persistentVolumeClaim.size"
_SHRINKS = "must not be less than before: a disk cannot shrink"


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
    size: Size | None = None
    storage_class_name: str | None = Field(None, max_length=253)


class DiskProvisioning(StrEnum):
    """When the bytes of the image come into the disk."""

    LAZY = "Lazy"
    """While it is used; it is Ready at once."""
    EAGER = "Eager"
    """Before it is Ready."""


def _size(spec: Any) -> str | int | None:
    size: str | int | None = spec["persistentVolumeClaim"].get("size")
    return size


def _is_less(new: str | int, old: str | int) -> bool:
    try:
        return parse_bytes(new) < parse_bytes(old)
    except ValueError:
        return False  # another rule tells


def _stays_or_grows(new: Any, old: Any) -> bool:
    before, after = _size(old), _size(new)
    return before is None or after is None or not _is_less(after, before)


def _holds_what_it_has(new: Any, old: Any) -> bool:
    """Of a disk that had the size of its image: a size that is given now."""
    size, capacity = _size(new["spec"]), (old.get("status") or {}).get("capacity")
    return _size(old["spec"]) is not None or size is None or capacity is None or not _is_less(size, capacity)


class DiskSpec(ApiModel):
    rules: ClassVar[tuple[ModelRule, ...]] = (
        Rule(
            f"has(self.dataSource) || has(self.{_SIZE})",
            lambda spec: spec.data_source is not None or spec.persistent_volume_claim.size is not None,
            "required for an empty disk (one without spec.dataSource)",
            _SIZE,
        ),
    )
    changes: ClassVar[tuple[ChangeRule, ...]] = (
        *fixed("dataSource", "provisioning", "persistentVolumeClaim.storageClassName"),
        Change(
            f"!has(oldSelf.{_SIZE}) || has(self.{_SIZE})",
            lambda new, old: _size(old) is None or _size(new) is not None,
            "cannot be removed",
            _SIZE,
        ),
        Change(
            f"!has(oldSelf.{_SIZE}) || !has(self.{_SIZE}) || !isQuantity(string(self.{_SIZE})) || "
            f"quantity(string(self.{_SIZE})).compareTo(quantity(string(oldSelf.{_SIZE}))) >= 0",
            _stays_or_grows,
            _SHRINKS,
            _SIZE,
        ),
    )
    persistent_volume_claim: DiskClaim
    data_source: DiskDataSource | None = None
    provisioning: DiskProvisioning = DiskProvisioning.LAZY


class DiskStatus(ImportStatus):
    phase: DiskPhase | None = None
    capacity: str | None = Field(None, max_length=64)


DISK_CHANGES = (
    Change(
        f"has(oldSelf.spec.{_SIZE}) || !has(self.spec.{_SIZE}) || !isQuantity(string(self.spec.{_SIZE})) || "
        "!has(oldSelf.status) || !has(oldSelf.status.capacity) || "
        f"quantity(string(self.spec.{_SIZE})).compareTo(quantity(oldSelf.status.capacity)) >= 0",
        _holds_what_it_has,
        _SHRINKS,
        f"spec.{_SIZE}",
    ),
)
"""Of the whole disk."""
