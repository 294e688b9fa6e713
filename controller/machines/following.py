"""The phase of a machine that has a pod, from its pod and from what its launcher says."""

from controller.api.machine import MachinePhase
from controller.launcher.spec import MachineState
from controller.machines.node_loss import node_loss
from controller.machines.pod import is_ready
from controller.machines.states import POLL_S, RUNNING
from controller.machines.visit import Flow, Visit
from controller.pod_start import start_obstacle, with_obstacle


def follow(visit: Visit) -> Flow:
    """Tell where the machine runs, how far its start is, and what holds it up."""
    status, machine, launcher = visit.status, visit.machine, visit.launcher
    pod = visit.pod or {}
    status.node_name = pod["spec"].get("nodeName")
    status.ip_address = (pod.get("status") or {}).get("podIP")
    if not is_ready(pod) and launcher is None:
        status.phase = MachinePhase.STARTING if status.node_name else MachinePhase.SCHEDULING
        waits = with_obstacle("waits for a node to run on", pod)
        if status.node_name:
            lost = node_loss(visit.cluster, pod)
            waits = visit.held_up or lost or with_obstacle("the launcher starts QEMU", pod)
            status.message = visit.held_up or lost or start_obstacle(pod) or None
            visit.look_again(POLL_S)
        machine.condition(RUNNING, False, status.phase.value, waits)
        return Flow.ON
    visit.look_again(POLL_S)
    if launcher is not None and launcher.state is MachineState.PAUSED:
        status.phase = MachinePhase.PAUSE
        machine.condition(RUNNING, False, "Paused", launcher.message or "the guest is paused")
        status.message = launcher.message or None
        return Flow.ON
    status.phase = MachinePhase.RUNNING
    machine.condition(RUNNING, True, "Running", "the guest runs")
    copying = [disk for disk in launcher.disks if disk.streamed_percent < 100] if launcher else []
    if copying:
        told = ", ".join(f"{disk.name} {disk.streamed_percent}%" for disk in copying)
        status.message = f"the guest runs while its disks are still copied: {told}"
    return Flow.ON
