"""VirtualMachine."""

from controller.api.machine import MachinePhase, MachineSpec, MachineStatus, Power
from controller.api.operation import OperationType
from controller.api.resource import MACHINE, POD
from controller.launcher.spec import MachineState
from controller.machines.changes import pending_changes
from controller.machines.devices import NotReady
from controller.machines.guest import forget_guest, show_guest
from controller.machines.launcher_status import LauncherStatus
from controller.machines.pod import applied_spec, is_finished, is_ready, pod_name, restart_relevant, termination_of
from controller.machines.power import after_termination, first_power, intent
from controller.machines.request import PowerRequest, read_request
from controller.machines.starting import MachineStart
from controller.runtime.conditions import Clock, read_time, utc_now
from controller.runtime.informer import Key, Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import Subject

RUNNING = "Running"
CONFIGURATION_APPLIED = "ConfigurationApplied"
_POLL_S = 10.0
_FORCED_GRACE_S = 1


class MachineReconciler:
    """Keeps one pod for each machine that is to run, and none for the others."""

    def __init__(
        self, cluster: ClusterPort, starting: MachineStart, launchers: LauncherStatus, clock: Clock = utc_now
    ) -> None:
        self._cluster = cluster
        self._starting = starting
        self._launchers = launchers
        self._clock = clock

    def reconcile(self, key: Key) -> float | None:
        obj = self._cluster.get(MACHINE, key[1], key[0])
        if obj is None:
            return None
        machine = Subject(self._cluster, MACHINE, obj, MachineStatus, self._clock)
        pod = self._cluster.get(POD, pod_name(machine.name), machine.namespace)
        if machine.deleting:
            return self._remove(machine, pod)
        machine.hold()
        spec = MachineSpec.read(machine.obj["spec"])
        machine.status.power = machine.status.power or first_power(spec.run_policy)
        machine.status.message = None
        if pod is not None and is_finished(pod):
            return self._clear_up(machine, spec, machine.status.power, pod)
        request = read_request(machine.obj)
        self._take_over(machine.status.power, request, pod)
        again_s = self._switch(machine, spec, machine.status.power, request, pod)
        machine.save()
        return again_s

    def _clear_up(self, machine: Subject[MachineStatus], spec: MachineSpec, power: Power, pod: Object) -> float | None:
        """Remember how the machine ended, then remove its pod; what follows is decided when it is gone."""
        end = termination_of(pod)
        started = (pod.get("status") or {}).get("startTime")
        machine.status.power = after_termination(
            spec.run_policy, power, end.reason, read_time(started) if started else None, self._clock()
        )
        machine.status.phase = MachinePhase.STOPPED
        machine.status.node_name = machine.status.ip_address = None
        machine.condition(RUNNING, False, end.reason.value, end.message)
        machine.save()
        self._cluster.delete(
            POD, pod["metadata"]["name"], machine.namespace, grace_period_s=0, uid=pod["metadata"]["uid"]
        )
        return 1

    def _take_over(self, power: Power, request: PowerRequest | None, pod: Object | None) -> None:
        """What an operation asks becomes part of the memory; once its effect is there, that is noted too."""
        if request is None or power.operation == request.uid:
            return
        power.desired = "Off" if request.type is OperationType.STOP else "On"
        if request.type is OperationType.STOP:
            done = pod is None
        else:
            power.crashes = power.crashed_at = None
            replaced = request.type is OperationType.START or (pod or {}).get("metadata", {}).get("uid") != request.pod
            done = pod is not None and is_ready(pod) and replaced
        if done:
            power.operation = request.uid

    def _switch(
        self,
        machine: Subject[MachineStatus],
        spec: MachineSpec,
        power: Power,
        request: PowerRequest | None,
        pod: Object | None,
    ) -> float | None:
        wanted = intent(spec.run_policy, power)
        if pod is None:
            machine.status.node_name = machine.status.ip_address = None
            machine.status.restart_awaiting_changes = None
            forget_guest(machine)
            if not wanted.on:
                machine.status.phase = MachinePhase.STOPPED
                self._tell_off(machine, spec)
                return None
            if wanted.not_before is not None and self._clock() < wanted.not_before:
                return self._wait_after_crash(machine, power, (wanted.not_before - self._clock()).total_seconds())
            return self._start(machine, spec)
        restart = self._is_restart(request, power, pod) or self._changes(machine, spec, pod)
        if "deletionTimestamp" not in pod["metadata"] and (restart or not wanted.on):
            force = request is not None and request.force and power.operation != request.uid
            grace_s = _FORCED_GRACE_S if force else None
            name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
            self._cluster.delete(POD, name, machine.namespace, grace_period_s=grace_s, uid=uid)
            return self._tell_stopping(machine)
        if "deletionTimestamp" in pod["metadata"]:
            return self._tell_stopping(machine)
        return self._follow(machine, pod)

    def _is_restart(self, request: PowerRequest | None, power: Power, pod: Object) -> bool:
        return (
            request is not None
            and power.operation != request.uid
            and request.type is OperationType.RESTART
            and request.pod == pod["metadata"]["uid"]
        )

    def _changes(self, machine: Subject[MachineStatus], spec: MachineSpec, pod: Object) -> bool:
        """List the changes that wait for a restart; whether they are to be applied by one at once."""
        changes = pending_changes(applied_spec(pod), restart_relevant(spec))
        machine.status.restart_awaiting_changes = changes or None
        if not changes:
            machine.condition(CONFIGURATION_APPLIED, True, "Applied", "the machine runs with its present spec")
            return False
        paths = ", ".join(change.path for change in changes)
        machine.condition(CONFIGURATION_APPLIED, False, "RestartRequired", f"wait for a restart: {paths}")
        return spec.disruptions.restart_approval_mode == "Automatic"

    def _start(self, machine: Subject[MachineStatus], spec: MachineSpec) -> float | None:
        pod = self._starting.start(machine, spec)
        if isinstance(pod, NotReady):
            machine.status.phase = MachinePhase.PENDING
            machine.condition(RUNNING, False, pod.reason, pod.message)
            return _POLL_S
        return self._follow(machine, pod)

    def _follow(self, machine: Subject[MachineStatus], pod: Object) -> float | None:
        status = machine.status
        status.node_name = pod["spec"].get("nodeName")
        status.ip_address = (pod.get("status") or {}).get("podIP")
        if not is_ready(pod):
            forget_guest(machine)
            status.phase = MachinePhase.STARTING if status.node_name else MachinePhase.SCHEDULING
            waits = "the launcher starts QEMU" if status.node_name else "waits for a node to run on"
            machine.condition(RUNNING, False, status.phase.value, waits)
            return None
        launcher = self._launchers.read(status.ip_address) if status.ip_address else None
        if launcher is not None:
            show_guest(machine, launcher.guest)
        if launcher is not None and launcher.state is MachineState.PAUSED:
            status.phase = MachinePhase.PAUSE
            machine.condition(RUNNING, False, "Paused", launcher.message or "the guest is paused")
            status.message = launcher.message or None
            return _POLL_S
        status.phase = MachinePhase.RUNNING
        machine.condition(RUNNING, True, "Running", "the guest runs")
        copying = [disk for disk in launcher.disks if disk.streamed_percent < 100] if launcher else []
        if copying:
            told = ", ".join(f"{disk.name} {disk.streamed_percent}%" for disk in copying)
            status.message = f"the guest runs while its disks are still copied: {told}"
        return _POLL_S

    def _tell_off(self, machine: Subject[MachineStatus], spec: MachineSpec) -> None:
        """Why it is off; the reason of its end stays if there is one."""
        last = next((c for c in machine.status.conditions if c.type == RUNNING), None)
        if last is None or last.status == "True" or last.reason in ("Stopping", "Starting", "Scheduling"):
            machine.condition(RUNNING, False, "Stopped", f"switched off (run policy {spec.run_policy.value})")

    def _tell_stopping(self, machine: Subject[MachineStatus]) -> float | None:
        machine.status.phase = MachinePhase.STOPPING
        machine.condition(RUNNING, False, "Stopping", "the guest was asked to power off")
        return None

    def _wait_after_crash(self, machine: Subject[MachineStatus], power: Power, pause_s: float) -> float:
        machine.status.phase = MachinePhase.FAILED
        last = next((c for c in machine.status.conditions if c.type == RUNNING), None)
        cause = last.message if last else ""
        machine.status.message = f"crash number {power.crashes} in a row; starts again after a pause"
        machine.condition(RUNNING, False, "CrashLoopBackOff", cause)
        return pause_s + 0.1

    def _remove(self, machine: Subject[MachineStatus], pod: Object | None) -> float | None:
        """Power the guest off before the machine goes."""
        if machine.finalized:
            return None
        if pod is None:
            machine.let_go()
            return None
        machine.status.phase = MachinePhase.TERMINATING
        machine.save()
        finished = is_finished(pod)
        if finished or "deletionTimestamp" not in pod["metadata"]:
            grace_s = 0 if finished else None
            name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
            self._cluster.delete(POD, name, machine.namespace, grace_period_s=grace_s, uid=uid)
        return None
