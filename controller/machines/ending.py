"""The end of a machine's pod: what is remembered of it."""

from controller.api.machine import MachinePhase
from controller.launcher.spec import TerminationReason
from controller.machines.last_output import keep_output
from controller.machines.pod import is_finished, termination_of
from controller.machines.power import after_termination
from controller.machines.states import RUNNING
from controller.machines.visit import Flow, Visit, upkeep
from controller.runtime.conditions import read_time
from controller.runtime.index import Object

_TOLD = {
    TerminationReason.GUEST_SHUTDOWN: "the guest powered itself off",
    TerminationReason.GUEST_RESET: "the guest rebooted",
    TerminationReason.STOPPED: "the guest powered off as it was asked to",
}


def clear_up(visit: Visit) -> Flow:
    """Remember how the machine ended, then remove its pod; what follows is decided when it is gone."""
    pod = visit.pod
    if pod is None or not is_finished(pod):
        return Flow.ON
    if visit.power.ended_pod != pod["metadata"]["uid"]:
        _remember(visit, pod)
        visit.after_save.append(lambda: _remove(visit))
    else:
        # It was remembered, but not removed: the cluster refused it, or the controller ended. Why the machine ended
        # stays said.
        upkeep(_remove)(visit)
    visit.look_again(1)
    return Flow.END


def _remove(visit: Visit) -> Flow:
    pod = visit.pod
    assert pod is not None
    keep_output(visit.cluster, visit.machine.namespace or "", visit.machine.name, termination_of(pod).output)
    visit.delete_pod(pod, grace_period_s=0)
    return Flow.END


def _remember(visit: Visit, pod: Object) -> None:
    end = termination_of(pod)
    started = (pod.get("status") or {}).get("startTime")
    power = after_termination(
        visit.spec.run_policy, visit.power, end.reason, read_time(started) if started else None, visit.now
    )
    visit.status.power = power.model_copy(update={"ended_pod": pod["metadata"]["uid"]})
    visit.status.phase = MachinePhase.STOPPED
    visit.status.node_name = visit.status.ip_address = None
    visit.machine.condition(RUNNING, False, end.reason.value, end.message or _TOLD.get(end.reason, ""))
