"""Deleting a machine: its guest is powered off before it goes."""

from controller.api.machine import MachinePhase
from controller.machines.node_loss import node_loss
from controller.machines.pod import is_finished
from controller.machines.states import RUNNING
from controller.machines.visit import Flow, Visit


def remove(visit: Visit) -> Flow:
    """Stop the pod of a machine that is being deleted; once it is gone, let the machine go."""
    if not visit.machine.deleting:
        return Flow.ON
    visit.status.phase = MachinePhase.TERMINATING
    if visit.pod is None:
        visit.machine.let_go()
        return Flow.GONE
    lost = node_loss(visit.cluster, visit.pod)
    visit.machine.condition(RUNNING, False, "Terminating", lost or "waits for the guest to power off")
    finished = is_finished(visit.pod)
    if finished or "deletionTimestamp" not in visit.pod["metadata"]:
        visit.delete_pod(visit.pod, grace_period_s=0 if finished else None)
    return Flow.END
