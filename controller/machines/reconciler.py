"""VirtualMachine: one pod for each machine that is to run, and none for the others."""

from controller.api.machine import MachinePhase, MachineSpec, MachineStatus
from controller.api.resource import MACHINE, POD
from controller.machines.address import compare_address
from controller.machines.authority import MachineAuthority
from controller.machines.changes import list_changes
from controller.machines.copied import note_copied
from controller.machines.disruption_budget import protect
from controller.machines.ending import clear_up
from controller.machines.eviction import heed_eviction
from controller.machines.following import follow
from controller.machines.grace_period import tell_grace_period
from controller.machines.guest import guest_facts
from controller.machines.hotplug import Plug
from controller.machines.image_access import keep_access
from controller.machines.labels import carry_labels
from controller.machines.launcher_status import LauncherStatus, Observe
from controller.machines.lost_images import tell_lost_images
from controller.machines.migration import is_under_way, remove_leftover, tell_migratable
from controller.machines.network import network_facts
from controller.machines.pod import active_pod_name, pod_name
from controller.machines.power import first_power
from controller.machines.removal import remove
from controller.machines.renewal import Renew
from controller.machines.request import read_request
from controller.machines.starting import MachineStart
from controller.machines.states import RUNNING
from controller.machines.switching import switch_off, switch_on, take_over
from controller.machines.visit import Flow, Step, Visit, upkeep
from controller.registry_access import RegistryAccess
from controller.runtime.conditions import Clock, utc_now
from controller.runtime.index import Key
from controller.runtime.port import ClusterPort
from controller.runtime.subject import Subject
from dvcr.errors import DvcrError


class MachineReconciler:
    """Takes a machine through the steps, in order, and writes its status once."""

    def __init__(
        self,
        cluster: ClusterPort,
        starting: MachineStart,
        authority: MachineAuthority,
        access: RegistryAccess,
        launchers: LauncherStatus,
        migrate: Step,
        clock: Clock = utc_now,
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._steps: tuple[Step, ...] = (
            upkeep(protect),
            upkeep(keep_access(access)),
            upkeep(remove_leftover),
            migrate,
            remove,
            clear_up,
            upkeep(Renew(authority)),
            upkeep(tell_grace_period),
            upkeep(carry_labels),
            Observe(launchers),
            note_copied,
            tell_lost_images,
            guest_facts,
            network_facts,
            tell_migratable,
            take_over,
            list_changes,
            switch_off,
            switch_on(starting),
            follow,
            upkeep(Plug(launchers)),
            compare_address,
            upkeep(heed_eviction),
        )

    def reconcile(self, key: Key) -> float | None:
        obj = self._cluster.get(MACHINE, key[1], key[0])
        if obj is None:
            return None
        machine = Subject(self._cluster, MACHINE, obj, MachineStatus, self._clock)
        if machine.deleting and machine.finalized:
            return None
        try:
            visit = self._begin(machine)
            if self._take(visit) is Flow.GONE:
                return None
        except DvcrError as exc:
            machine.status.phase = machine.status.phase or MachinePhase.PENDING
            machine.tell_trouble(RUNNING, exc)
            raise
        machine.save()
        for action in visit.after_save:
            action()
        if visit.failure is not None:
            raise visit.failure
        return visit.again_s

    def _take(self, visit: Visit) -> Flow:
        """All steps that are to be taken."""
        for step in self._steps:
            flow = step(visit)
            if flow is not Flow.ON:
                return flow
        return Flow.ON

    def _begin(self, machine: Subject[MachineStatus]) -> Visit:
        if not machine.deleting:
            machine.hold()
        spec = MachineSpec.read(machine.obj["spec"])
        power = machine.status.power = machine.status.power or first_power(spec.run_policy)
        machine.status.message = None
        pod = self._cluster.get(POD, active_pod_name(machine.obj), machine.namespace)
        if pod is None and machine.status.active_pod and not is_under_way(machine.status.migration):
            # What the machine moved to is gone; the next start is in a pod of the first one's name.
            machine.status.active_pod = None
            pod = self._cluster.get(POD, pod_name(machine.name), machine.namespace)
        return Visit(
            cluster=self._cluster,
            machine=machine,
            spec=spec,
            power=power,
            pod=pod,
            request=read_request(machine.obj),
            now=self._clock(),
        )
