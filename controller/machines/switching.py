"""The power switch: a pod where the machine is to run, none where it is not."""

from datetime import timedelta

from controller.api.machine import MachinePhase
from controller.api.operation import OperationType
from controller.launcher.spec import TerminationReason
from controller.machines.changes import approved
from controller.machines.launch import NotReady
from controller.machines.node_loss import node_loss
from controller.machines.pod import is_ready
from controller.machines.power import intent
from controller.machines.request import MOVES
from controller.machines.starting import MachineStart
from controller.machines.states import POLL_S, RUNNING
from controller.machines.visit import Flow, Step, Visit
from controller.runtime.conditions import find_condition, write_time
from controller.runtime.index import Object

_FORCED_GRACE_S = 1
_ENDS = frozenset(reason.value for reason in TerminationReason)


def take_over(visit: Visit) -> Flow:
    """What an operation asks becomes part of the memory; once its effect is there, that is noted too."""
    asked, power, pod = visit.asked, visit.power, visit.pod
    if asked is None or asked.type in MOVES:
        return Flow.ON
    if asked.type is OperationType.STOP:
        power.desired = "Off"
        done = pod is None
    else:
        if power.heard != asked.uid:
            power.heard = asked.uid
            power.crashes = power.crashed_at = None
        elif power.crashes:
            # It was tried: the operation fails, and what follows is the run policy's.
            return Flow.ON
        power.desired = "On"
        replaced = asked.type is OperationType.START or (pod or {}).get("metadata", {}).get("uid") != asked.pod
        done = pod is not None and is_ready(pod) and replaced
    if done:
        power.operation = asked.uid
    return Flow.ON


def switch_off(visit: Visit) -> Flow:
    """Stop a pod that is not to run, or that is to be replaced; tell of one that stops."""
    pod = visit.pod
    if pod is None:
        return Flow.ON
    stops = "deletionTimestamp" in pod["metadata"]
    wanted = intent(visit.spec.run_policy, visit.power).on and not _is_restart(visit, pod) and not approved(visit)
    if wanted and not stops:
        return Flow.ON
    force = not wanted and visit.asked is not None and visit.asked.force
    if not stops or (force and pod["metadata"].get("deletionGracePeriodSeconds", 0) > _FORCED_GRACE_S):
        visit.delete_pod(pod, grace_period_s=_FORCED_GRACE_S if force else None)
    visit.status.phase = MachinePhase.STOPPING
    message = "the machine is switched off by force" if force else "the guest was asked to power off"
    lost = node_loss(visit.cluster, pod)
    visit.status.message = lost or None
    visit.machine.condition(RUNNING, False, "Stopping", f"{message}; {lost}" if lost else message)
    return Flow.END


def switch_on(starting: MachineStart) -> Step:
    """Make the pod that is to run, once everything that it needs is there."""

    def step(visit: Visit) -> Flow:
        if visit.pod is None:
            visit.status.node_name = visit.status.ip_address = None
            wanted = intent(visit.spec.run_policy, visit.power)
            if not wanted.on:
                _tell_off(visit)
                return Flow.END
            if wanted.not_before is not None and visit.now < wanted.not_before:
                _wait_after_crash(visit, (wanted.not_before - visit.now).total_seconds())
                return Flow.END
            pod = starting.start(visit)
            if isinstance(pod, NotReady):
                visit.status.phase = MachinePhase.PENDING
                visit.machine.condition(RUNNING, False, pod.reason, pod.message)
                visit.look_again(POLL_S)
                return Flow.END
            visit.pod = pod
        # Another run policy must find it as it is, whatever the guest or an operation left before.
        visit.power.desired = "On"
        return Flow.ON

    return step


def _is_restart(visit: Visit, pod: Object) -> bool:
    asked = visit.asked
    return asked is not None and asked.type is OperationType.RESTART and asked.pod == pod["metadata"]["uid"]


def _tell_off(visit: Visit) -> None:
    """Why it is off; the reason of its end stays if there is one."""
    visit.status.phase = MachinePhase.STOPPED
    last = find_condition(visit.status.conditions, RUNNING)
    if last is None or last.reason not in _ENDS:
        policy = visit.spec.run_policy.value
        visit.machine.condition(RUNNING, False, "Stopped", f"switched off (run policy {policy})")


def _wait_after_crash(visit: Visit, pause_s: float) -> None:
    visit.status.phase = MachinePhase.FAILED
    last = find_condition(visit.status.conditions, RUNNING)
    again = write_time(visit.now + timedelta(seconds=pause_s))
    visit.status.message = f"crash number {visit.power.crashes} in a row; starts again at {again}"
    why = last.message if last is not None else ""
    visit.machine.condition(RUNNING, False, "CrashLoopBackOff", why or visit.status.message)
    visit.look_again(pause_s + 0.1)
