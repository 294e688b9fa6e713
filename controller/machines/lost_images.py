"""Whether a running machine has all that its block devices read from."""

from collections.abc import Iterator

from controller.api.machine import BlockDeviceType
from controller.api.reference import named_in
from controller.disks.loss import loss_of_image, told_loss
from controller.images.existing import IMAGE_LOST, NotThere
from controller.machines.devices import device_of
from controller.machines.states import BLOCK_DEVICES_READY
from controller.machines.visit import Flow, Visit
from controller.runtime.conditions import find_condition


def tell_lost_images(visit: Visit) -> Flow:
    """Say which of them are in the registry no more: the guest pauses where it needs what was not copied."""
    if visit.launcher is None:
        return Flow.ON
    losses = [f"{name}: {loss.message}" for name, loss in _losses(visit)]
    condition = find_condition(visit.status.conditions, BLOCK_DEVICES_READY)
    if losses:
        visit.machine.condition(BLOCK_DEVICES_READY, False, IMAGE_LOST, "; ".join(losses))
    elif condition is not None and condition.reason == IMAGE_LOST:
        visit.machine.condition(BLOCK_DEVICES_READY, True, "Ready", "the lost images are back, or not needed any more")
    return Flow.ON


def _losses(visit: Visit) -> Iterator[tuple[str, NotThere]]:
    for disk in visit.launcher.disks if visit.launcher else ():
        device, loss = device_of(disk.name), None
        ((resource, key),) = named_in(device.write(), visit.machine.namespace or "")
        if device.type is not BlockDeviceType.DISK:
            loss = loss_of_image(visit.cluster, resource, key)
        elif disk.attached and disk.streamed_percent < 100:
            obj = visit.cluster.get(resource, key[1], key[0])
            loss = told_loss(obj) if obj is not None else None
        if loss is not None:
            yield disk.name, loss
