"""Which disks of a running machine need their image no longer."""

from controller.api.machine import BlockDeviceType
from controller.api.resource import PVC
from controller.disks.claim import filled, stands_alone
from controller.launcher.spec import MachineState
from controller.machines.devices import device_of
from controller.machines.visit import Flow, Visit


def note_copied(visit: Visit) -> Flow:
    """Note it on their claims: only the launcher knows, and only as long as the machine runs."""
    launcher = visit.launcher
    if launcher is None or launcher.state not in (MachineState.RUNNING, MachineState.PAUSED):
        return Flow.ON
    for disk in launcher.disks:
        if disk.attached and disk.streamed_percent == 100 and device_of(disk.name).type is BlockDeviceType.DISK:
            # A disk goes by the name of its claim.
            claim = visit.claim(disk.name)
            if claim is not None and not stands_alone(claim):
                visit.cluster.patch(PVC, disk.name, filled(claim), visit.machine.namespace)
    return Flow.ON
