"""VirtualMachineBlockDeviceAttachment: says how far the machine is with the disk, and goes once the disk is free.

The machine's own reconciler plugs and unplugs: it alone tells the launcher which disks the machine is to have.
"""

from controller.api.attachment import AttachmentPhase, AttachmentSpec, AttachmentStatus
from controller.api.machine import MachineStatus
from controller.api.pod_claims import CLAIMS_MOUNTED_CONDITION, claims_of, volume_claims
from controller.api.resource import ATTACHMENT, MACHINE, POD
from controller.attachments.acceptance import disk_device, disks_of, refusal
from controller.disks.claim import claim_name
from controller.disks.usage import is_over, machine_of, pods_using
from controller.launcher.spec import DiskStatus
from controller.machines.devices import resolve_disk
from controller.machines.launch import NotReady
from controller.machines.launcher_status import LauncherStatus
from controller.machines.pod import active_pod_name, applied_spec, is_ready
from controller.runtime.conditions import Clock, utc_now
from controller.runtime.index import Key, Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import Subject, refused_upkeep
from dvcr.errors import DvcrError

ATTACHED = "Attached"
_POLL_S = 2.0


class AttachmentReconciler:
    """Follows one attachment at a time."""

    def __init__(self, cluster: ClusterPort, launchers: LauncherStatus, clock: Clock = utc_now) -> None:
        self._cluster = cluster
        self._launchers = launchers
        self._clock = clock

    def reconcile(self, key: Key) -> float | None:
        obj = self._cluster.get(ATTACHMENT, key[1], key[0])
        if obj is None:
            return None
        attachment = Subject(self._cluster, ATTACHMENT, obj, AttachmentStatus, self._clock)
        spec = AttachmentSpec.read(obj["spec"])
        if attachment.deleting and attachment.finalized:
            return None
        try:
            again_s = self._bring_forward(attachment, spec)
        except DvcrError as exc:
            attachment.status.phase = attachment.status.phase or AttachmentPhase.IN_PROGRESS
            attachment.tell_trouble(ATTACHED, exc)
            raise
        # One without our finalizer may be gone.
        if not attachment.finalized:
            attachment.save()
        return again_s

    def _bring_forward(self, attachment: Subject[AttachmentStatus], spec: AttachmentSpec) -> float | None:
        if attachment.deleting:
            return self._detach(attachment, spec)
        attachment.hold()
        return self._follow(attachment, spec)

    def _follow(self, attachment: Subject[AttachmentStatus], spec: AttachmentSpec) -> float | None:
        namespace = attachment.namespace
        machines = self._cluster.list(MACHINE, namespace)
        machine = next((m for m in machines if m["metadata"]["name"] == spec.virtual_machine_name), None)
        pod = self._cluster.get(POD, active_pod_name(machine), namespace) if machine else None
        attachment.status.failure_reason = attachment.status.failure_message = None
        refused = refusal(attachment.obj, self._cluster.list(ATTACHMENT, namespace), machines, pod)
        if refused is not None:
            attachment.status.phase = AttachmentPhase.FAILED
            attachment.status.virtual_machine_name = None
            attachment.status.failure_reason = refused.reason
            attachment.status.failure_message = refused.message
            attachment.condition(ATTACHED, False, refused.reason, refused.message)
            return None
        name = spec.virtual_machine_name
        if machine is None or "deletionTimestamp" in machine["metadata"]:
            message = f"waits for VirtualMachine {name!r}, which does not exist"
            return self._wait(attachment, "VirtualMachineNotFound", message)
        disk = self._plugged(pod, spec.disk) if pod is not None and is_ready(pod) else None
        if disk is not None and disk.attached:
            attachment.status.phase = AttachmentPhase.ATTACHED
            attachment.status.virtual_machine_name = name
            where = f" as {disk.target}" if disk.target else ""
            attachment.condition(ATTACHED, True, "Attached", f"the guest has the disk{where}")
            return None
        found = resolve_disk(self._cluster, namespace or "", disk_device(attachment.obj), name)
        if isinstance(found, NotReady):
            return self._wait(attachment, found.reason, found.message)
        if pod is None or not is_ready(pod):
            message = f"VirtualMachine {name!r} does not run; it gets the disk when it starts"
            return self._wait(attachment, "VirtualMachineNotRunning", message)
        waits = _waits_for(pod, claim_name(spec.disk), disk)
        untold = refused_upkeep(MachineStatus.read(machine.get("status")).conditions)
        return self._wait(attachment, "Attaching", f"{waits} ({untold})" if untold else waits)

    def _wait(self, attachment: Subject[AttachmentStatus], reason: str, message: str) -> float:
        attachment.status.phase = AttachmentPhase.IN_PROGRESS
        attachment.status.virtual_machine_name = None
        attachment.condition(ATTACHED, False, reason, message)
        return _POLL_S

    def _detach(self, attachment: Subject[AttachmentStatus], spec: AttachmentSpec) -> float | None:
        held_by = [] if self._has_heir(attachment, spec) else self._holders(attachment, spec)
        if not held_by:
            attachment.let_go()
            return None
        disk = self._plugged(held_by[0], spec.disk)
        message = (disk.message if disk else "") or "the volume is being unmounted"
        attachment.condition(ATTACHED, False, "Detaching", message)
        return _POLL_S

    def _holders(self, attachment: Subject[AttachmentStatus], spec: AttachmentSpec) -> list[Object]:
        """The pods that have the disk because of this attachment."""
        machines = {spec.virtual_machine_name, attachment.status.virtual_machine_name}
        return [
            pod
            for pod in pods_using(self._cluster, claim_name(spec.disk), attachment.namespace)
            if machine_of(pod) in machines and not is_over(pod) and spec.disk not in disks_of(applied_spec(pod))
        ]

    def _has_heir(self, attachment: Subject[AttachmentStatus], spec: AttachmentSpec) -> bool:
        """Whether another attachment keeps the disk where it is."""
        return any(
            AttachmentSpec.read(other["spec"]) == spec and "deletionTimestamp" not in other["metadata"]
            for other in self._cluster.list(ATTACHMENT, attachment.namespace)
        )

    def _plugged(self, pod: Object, disk: str) -> DiskStatus | None:
        launcher = self._launchers.read(pod)
        disks = launcher.disks if launcher else ()
        return next((d for d in disks if d.name == claim_name(disk) and d.hotplug), None)


def _waits_for(pod: Object, claim: str, disk: DiskStatus | None) -> str:
    """What keeps the disk from being plugged."""
    if claim not in claims_of(pod):
        return "waits for the machine to take the disk"
    conditions = (pod.get("status") or {}).get("conditions") or ()
    mounted = next((c for c in conditions if c["type"] == CLAIMS_MOUNTED_CONDITION), None)
    if claim not in volume_claims(pod):
        node = pod["spec"].get("nodeName")
        if mounted is None:
            return f"waits for node {node!r} to mount the volume; one without DVCR's agent does so at the next start"
        if mounted["status"] != "True":
            return f"node {node!r} cannot mount the volume: {mounted.get('message', '')}"
    return (disk.message if disk else "") or "the machine plugs the disk"
