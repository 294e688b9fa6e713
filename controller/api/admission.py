"""What is refused of DVCR's objects beyond their schemas: the same in the embedded API server and in the webhook."""

from collections.abc import Callable
from typing import Any

from controller.api.errors import FieldCause
from controller.api.image import ImagePhase
from controller.api.kinds import admit
from controller.api.machine import NOT_BOOTABLE, BlockDevice, BlockDeviceType
from controller.api.model import FieldError
from controller.api.resource import CLUSTER_IMAGE, IMAGE, MACHINE, Resource

Find = Callable[[Resource, str, str | None], dict[str, Any] | None]
"""The object of that name and namespace, if there is one."""


def refusals(obj: dict[str, Any], old: dict[str, Any] | None, find: Find) -> list[FieldCause]:
    """Why an object that is to be created (`old` is None) or changed is refused; empty if it is not."""
    found = admit(obj, old)
    if not found and (obj.get("apiVersion"), obj.get("kind")) == (MACHINE.api_version, MACHINE.kind):
        found = _check_first_device(obj, old, find)
    return [FieldCause.invalid(error.field, _value_at(obj, error.field), error.message) for error in found]


def _check_first_device(obj: dict[str, Any], old: dict[str, Any] | None, find: Find) -> list[FieldError]:
    """What is known of the image that a machine is to boot from; of one that is not ready yet, its condition tells."""
    first = obj["spec"]["blockDevices"][0]
    if old is not None and old["spec"]["blockDevices"][0] == first:
        return []
    device = BlockDevice.read(first)
    resource = {BlockDeviceType.IMAGE: IMAGE, BlockDeviceType.CLUSTER_IMAGE: CLUSTER_IMAGE}.get(device.type)
    if resource is None:
        return []
    image = find(resource, device.name, obj["metadata"]["namespace"] if resource.namespaced else None)
    status = (image or {}).get("status") or {}
    if status.get("phase") != ImagePhase.READY or status.get("cdrom"):
        return []
    return [FieldError("spec.blockDevices[0]", f"{device.type.value} {device.name!r} {NOT_BOOTABLE}")]


def _value_at(obj: Any, path: str) -> Any:
    for part in path.replace("]", "").replace("[", ".").split("."):
        if isinstance(obj, dict):
            obj = obj.get(part)
        elif isinstance(obj, list) and part.isdigit() and int(part) < len(obj):
            obj = obj[int(part)]
        else:
            return None
    return obj
