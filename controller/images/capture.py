"""An image from a disk, made where the disk is; what the registry has already is not sent.

A disk that nobody writes to is captured by a pod of its own. A machine does not start while that goes on; where both
begin at the same moment, QEMU's lock on the disk lets one of them wait. The disk of a running machine is captured by
the machine's launcher, as it is at one moment, and the machine goes on.

The registry decides whether the image is there. A launcher that starts again has forgotten its captures: they are asked
for again.
"""

from dataclasses import dataclass
from typing import Protocol

from controller.api.data_source import DataSource, NamedInNamespace, SourceType
from controller.api.disk import DiskPhase
from controller.api.image import ImageStatus
from controller.api.resource import DISK, POD, PVC
from controller.disks.claim import claim_name, is_bound, pinned_image
from controller.disks.usage import (
    CAPTURE_ANNOTATION,
    captured_for,
    is_over,
    machine_of,
    phase_of,
    pods_using,
    user_of,
)
from controller.disks.work import WorkProgress, build_work_pod, work_disk, work_end
from controller.images.existing import NotThere
from controller.images.importing import ImportOutcome, ImportState, ImportTarget, advance_progress
from controller.launcher.spec import CaptureSpec, DiskSpec, WorkEnd, WorkStatus
from controller.machines.devices import disk_device_name
from controller.machines.pod import is_ready
from controller.machines.setup import LauncherSetup
from controller.pod_start import with_obstacle
from controller.registry_access import RegistryAccess, pulls, pushes
from controller.runtime.conditions import waits_for
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import Subject
from dvcr.client.credentials import Credentials

_POLL_S = 1.0
_WAIT_S = 3.0
_RETRY_S = 5.0


class LauncherCaptures(Protocol):
    """The captures in machines' pods."""

    def capture(
        self, pod: Object, image_uid: str, spec: CaptureSpec, credentials: Credentials | None
    ) -> WorkStatus | None:
        """Begin the capture if the launcher does not know it; how far it is. None if the launcher does not answer.

        From now on it shows `credentials` to the registry.
        """
        ...

    def end_capture(self, pod: Object, image_uid: str) -> bool:
        """End and forget it; False if the launcher does not answer. Idempotent."""
        ...


@dataclass(frozen=True)
class _Disk:
    """A disk that can be captured."""

    namespace: str
    name: str
    spec: DiskSpec
    claim: Object
    machine: Object | None = None
    """The pod of the machine that runs on it."""


class DiskCapture:
    """Brings captures forward, one look at a time."""

    def __init__(
        self,
        cluster: ClusterPort,
        progress: WorkProgress,
        launchers: LauncherCaptures,
        setup: LauncherSetup,
        access: RegistryAccess,
    ) -> None:
        self._cluster = cluster
        self._launchers = launchers
        self._progress = progress
        self._setup = setup
        self._access = access

    def advance(self, image: Subject[ImageStatus], target: ImportTarget, source: DataSource) -> ImportOutcome:
        """Do what is next for an image that is not in the registry yet, and tell in its status how far it is."""
        name, namespace = _disk_of(image, source)
        pod = self._cluster.get(POD, pod_name(image.uid), namespace)
        if pod is not None:
            claim = self._cluster.get(PVC, claim_name(name), namespace)
            return self._follow(image, target, pod, self._scopes(target, claim, namespace))
        disk = self._find(name, namespace)
        if isinstance(disk, NotThere):
            return ImportOutcome(ImportState.WAITING, disk.reason, disk.message, again_s=disk.again_s)
        spec = CaptureSpec(
            repository=target.repository,
            tags=("latest", target.uid),  # the image's own tag last: it means that all is done
            origin=f"VirtualMachineDisk {disk.namespace}/{disk.name}",
            disk=disk.spec,
        )
        scopes = self._scopes(target, disk.claim, namespace)
        if disk.machine is not None:
            return self._in_machine(image, target, disk.machine, spec, scopes)
        self._access.create(self._cluster, build_pod(image, disk.namespace, spec, self._setup), scopes)
        return self._running(image, "Capturing", "the capture of the disk starts")

    def clear(self, image: Subject[ImageStatus], source: DataSource) -> bool:
        """End the capture, if it runs; whether its pod is gone. Idempotent."""
        if source.type != SourceType.DISK:
            return True
        name, namespace = _disk_of(image, source)
        for user in pods_using(self._cluster, claim_name(name), namespace):
            if machine_of(user) and is_ready(user) and not self._launchers.end_capture(user, image.uid):
                return False
        pod = self._cluster.get(POD, pod_name(image.uid), namespace)
        if pod is None:
            return True
        if "deletionTimestamp" not in pod["metadata"]:
            self._delete(pod, namespace)
        return self._cluster.get(POD, pod_name(image.uid), namespace) is None

    def _scopes(self, target: ImportTarget, claim: Object | None, namespace: str) -> set[str]:
        """To push the image, and to read and mount what the disk started from; chunks of others are not looked for."""
        pinned = pinned_image(claim) if claim is not None else None
        return pushes(target.repository) | pulls([pinned[0]] if pinned else [], namespace)

    def _follow(
        self, image: Subject[ImageStatus], target: ImportTarget, pod: Object, scopes: set[str]
    ) -> ImportOutcome:
        if "deletionTimestamp" in pod["metadata"]:
            return self._running(image, "Capturing", "waits for the end of a capture that was interrupted")
        if not is_over(pod):
            self._access.keep_fresh(self._cluster, pod, scopes)
            address = (pod.get("status") or {}).get("podIP")
            told = self._progress.read(address) if address else None
            advance_progress(image.status, target.progress(told.percent) if told else 0)
            node = pod["spec"].get("nodeName")
            waits = "the disk is read and pushed" if node else "waits for a node that has the disk"
            return self._running(image, "Capturing", with_obstacle(waits, pod))
        self._delete(pod, pod["metadata"]["namespace"])
        return self._ended(image, work_end(pod))

    def _in_machine(
        self, image: Subject[ImageStatus], target: ImportTarget, pod: Object, spec: CaptureSpec, scopes: set[str]
    ) -> ImportOutcome:
        machine = machine_of(pod)
        told = self._launchers.capture(pod, image.uid, spec, self._access.lend(scopes))
        if told is None:
            return self._running(image, "LauncherUnavailable", f"waits for an answer of VirtualMachine {machine!r}")
        advance_progress(image.status, target.progress(told.percent))
        if told.end is None:
            return self._running(image, "Capturing", f"the disk is read and pushed while {machine!r} runs")
        self._launchers.end_capture(pod, image.uid)
        return self._ended(image, told.end)

    def _ended(self, image: Subject[ImageStatus], end: WorkEnd) -> ImportOutcome:
        if end.reason and not end.retryable:
            return ImportOutcome(ImportState.FAILED, end.reason, end.message, again_s=None)
        again = f"{end.message or 'the image is not in the registry after all'}; is tried again"
        return self._running(image, end.reason or "CaptureLost", again, _RETRY_S)

    def _running(
        self, image: Subject[ImageStatus], reason: str, message: str, again_s: float = _POLL_S
    ) -> ImportOutcome:
        advance_progress(image.status, 0)
        return ImportOutcome(ImportState.RUNNING, reason, message, again_s=again_s)

    def _delete(self, pod: Object, namespace: str) -> None:
        grace_s = 0 if is_over(pod) else None
        metadata = pod["metadata"]
        self._cluster.delete(POD, metadata["name"], namespace, grace_period_s=grace_s, uid=metadata["uid"])

    def _find(self, name: str, namespace: str) -> _Disk | NotThere:
        """The disk, if it can be captured now; else what is waited for."""
        label = f"VirtualMachineDisk {name!r}"
        disk = self._cluster.get(DISK, name, namespace)
        if disk is None:
            return NotThere(
                "DiskNotFound", f"waits for {label} in namespace {namespace!r}, which does not exist", _WAIT_S
            )
        phase = phase_of(disk)
        claim = self._cluster.get(PVC, claim_name(name), namespace)
        if phase != DiskPhase.READY or claim is None:
            return NotThere("DiskNotReady", waits_for(label, phase), _WAIT_S)
        if not is_bound(claim):
            return NotThere("DiskNotReady", f"waits for {label}, which has no volume before a machine uses it", _WAIT_S)
        users = [pod for pod in pods_using(self._cluster, claim_name(name), namespace) if not captured_for(pod)]
        machine = users[0] if len(users) == 1 and machine_of(users[0]) and is_ready(users[0]) else None
        if users and (machine is None or "deletionTimestamp" in machine["metadata"]):
            names = ", ".join(user_of(pod) for pod in users)
            message = f"waits until {label} is used by nobody or by one running machine ({names})"
            return NotThere("DiskInUse", message, _WAIT_S)
        spec = work_disk(name, claim)
        if machine is not None:
            spec = spec.model_copy(update={"name": disk_device_name(name)})
        return _Disk(namespace, name, spec, claim, machine)


def pod_name(image_uid: str) -> str:
    """Name of the pod that captures for an image: fixed, so there can never be two."""
    return f"capture-{image_uid}"


def build_pod(image: Subject[ImageStatus], namespace: str, spec: CaptureSpec, setup: LauncherSetup) -> Object:
    """The pod that captures a disk at rest."""
    owner = image.owner_reference()
    metadata = {
        "name": pod_name(image.uid),
        "namespace": namespace,
        "annotations": {CAPTURE_ANNOTATION: f"{owner['kind']} {image.name!r}"},
        "ownerReferences": [owner],
    }
    return build_work_pod(metadata, claim_name(spec.disk.name), spec.disk, "capture", spec, setup)


def _disk_of(image: Subject[ImageStatus], source: DataSource) -> tuple[str, str]:
    """Name and namespace of the disk; one of a cluster's image names both."""
    reference = getattr(source, "virtual_machine_disk", None)
    name = reference.name if reference else ""
    own = reference.namespace if isinstance(reference, NamedInNamespace) else image.namespace
    return name, own or ""
