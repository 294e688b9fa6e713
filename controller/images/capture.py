"""An image from a disk that nobody writes to: a pod where the disk is, which pushes what the registry lacks.

The registry decides whether the image is there. A machine does not start while the disk is captured, and a capture does
not begin while a pod uses the disk; where both begin at the same moment, QEMU's lock on the disk lets one of them wait.
"""

from dataclasses import dataclass
from typing import Protocol

import requests
from pydantic import ValidationError

from controller.api.data_source import DataSource, NamedInNamespace, SourceType
from controller.api.disk import DiskPhase
from controller.api.image import ImageStatus
from controller.api.resource import DISK, POD, PVC
from controller.disks.claim import claim_name, disk_bytes, is_block, is_bound, pinned_image
from controller.disks.mount import disk_mount
from controller.disks.usage import CAPTURE_ANNOTATION, captured_for, is_over, pods_using, user_of
from controller.images.existing import NotThere
from controller.images.importing import ImportOutcome, ImportState, ImportTarget, advance_progress
from controller.launcher.spec import (
    ADDRESS_VARIABLE,
    STATUS_PORT,
    CaptureEnd,
    CaptureSpec,
    CaptureStatus,
    DiskSpec,
    ImageReference,
)
from controller.machines.pod import LauncherSetup, registry_environment
from controller.runtime.informer import Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import Subject

DISK_PATH = "/disks/captured/disk.qcow2"
MEMORY_BYTES = 512 * 2**20
"""Chunks on their way, and qemu-img."""
_POLL_S = 1.0
_WAIT_S = 3.0
_RETRY_S = 5.0
_TIMEOUT_S = 2


class CaptureProgress(Protocol):
    """How far a capture is, from its pod."""

    def percent(self, address: str) -> int | None:
        """The percentage; None if the pod does not answer."""
        ...


class HttpCaptureProgress:
    """CaptureProgress over `GET /status`."""

    def percent(self, address: str) -> int | None:
        host = f"[{address}]" if ":" in address else address
        try:
            response = requests.get(f"http://{host}:{STATUS_PORT}/status", timeout=_TIMEOUT_S)
            response.raise_for_status()
            return CaptureStatus.model_validate_json(response.content).percent
        except (requests.RequestException, ValidationError):
            return None  # it begins, or ends: the pod's own state tells


@dataclass(frozen=True)
class _Disk:
    """A disk that can be captured."""

    name: str
    namespace: str
    spec: DiskSpec


class DiskCapture:
    """Brings captures forward, one look at a time."""

    def __init__(self, cluster: ClusterPort, progress: CaptureProgress, setup: LauncherSetup) -> None:
        self._cluster = cluster
        self._progress = progress
        self._setup = setup

    def advance(self, image: Subject[ImageStatus], target: ImportTarget, source: DataSource) -> ImportOutcome:
        """Do what is next for an image that is not in the registry yet, and tell in its status how far it is."""
        name, namespace = _disk_of(image, source)
        pod = self._cluster.get(POD, pod_name(image.uid), namespace)
        if pod is not None:
            return self._follow(image, pod, namespace)
        disk = self._find(name, namespace)
        if isinstance(disk, NotThere):
            return ImportOutcome(ImportState.WAITING, disk.reason, disk.message, again_s=disk.again_s)
        self._cluster.create(POD, build_pod(image, target, disk.namespace, disk.name, disk.spec, self._setup))
        return self._running(image, "Capturing", "the capture of the disk starts")

    def clear(self, image: Subject[ImageStatus], source: DataSource) -> bool:
        """End the capture, if it runs; whether its pod is gone. Idempotent."""
        if source.type != SourceType.DISK:
            return True
        _, namespace = _disk_of(image, source)
        pod = self._cluster.get(POD, pod_name(image.uid), namespace)
        if pod is None:
            return True
        if "deletionTimestamp" not in pod["metadata"]:
            self._delete(pod, namespace)
        return self._cluster.get(POD, pod_name(image.uid), namespace) is None

    def _follow(self, image: Subject[ImageStatus], pod: Object, namespace: str) -> ImportOutcome:
        if "deletionTimestamp" in pod["metadata"]:
            return self._running(image, "Capturing", "waits for the end of a capture that was interrupted")
        if not is_over(pod):
            address = (pod.get("status") or {}).get("podIP")
            percent = self._progress.percent(address) if address else None
            advance_progress(image.status, percent or 0)
            node = pod["spec"].get("nodeName")
            return self._running(
                image, "Capturing", "the disk is read and pushed" if node else "waits for a node that has the disk"
            )
        end = capture_end(pod)
        self._delete(pod, namespace)
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
        """The disk, at rest; else what is waited for."""
        label = f"VirtualMachineDisk {name!r}"
        disk = self._cluster.get(DISK, name, namespace)
        if disk is None:
            return NotThere(
                "DiskNotFound", f"waits for {label} in namespace {namespace!r}, which does not exist", _WAIT_S
            )
        phase = (disk.get("status") or {}).get("phase", DiskPhase.PENDING)
        if "deletionTimestamp" in disk["metadata"]:
            phase = DiskPhase.TERMINATING
        claim = self._cluster.get(PVC, claim_name(name), namespace)
        if phase != DiskPhase.READY or claim is None or not is_bound(claim):
            return NotThere("DiskNotReady", f"waits for {label}, which is {phase}", _WAIT_S)
        users = [pod for pod in pods_using(self._cluster, claim_name(name), namespace) if not captured_for(pod)]
        if users:
            names = ", ".join(user_of(pod) for pod in users)
            message = f"waits until {label} is not used any more: stop the machine ({names})"
            return NotThere("DiskInUse", message, _WAIT_S)
        pinned = pinned_image(claim)
        reference = ImageReference(repository=pinned[0], digest=pinned[1]) if pinned else None
        spec = DiskSpec(
            name=name,
            kind="disk",
            path=DISK_PATH,
            device=is_block(claim),
            size_bytes=disk_bytes(claim),
            image=reference,
        )
        return _Disk(name, namespace, spec)


def pod_name(image_uid: str) -> str:
    """Name of the pod that captures for an image: fixed, so there can never be two."""
    return f"capture-{image_uid}"


def build_pod(
    image: Subject[ImageStatus],
    target: ImportTarget,
    namespace: str,
    disk_name: str,
    disk: DiskSpec,
    setup: LauncherSetup,
) -> Object:
    """The pod that captures."""
    owner = image.owner_reference()
    spec = CaptureSpec(
        repository=target.repository,
        tags=("latest", target.uid),  # the image's own tag last: it means that all is done
        origin=f"VirtualMachineDisk {namespace}/{disk_name}",
        disk=disk,
    )
    container: Object = {
        "name": "capture",
        "image": setup.image,
        "command": [*setup.command, "capture", spec.model_dump_json()],
        "env": [
            {"name": ADDRESS_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            *registry_environment(setup.registry),
        ],
        "resources": {
            "requests": {"cpu": "100m", "memory": str(MEMORY_BYTES)},
            "limits": {"memory": str(2 * MEMORY_BYTES)},
        },
        "ports": [{"name": "status", "containerPort": STATUS_PORT}],
        **disk_mount("disk", disk),
        "terminationMessagePath": "/dev/termination-log",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(image.uid),
            "namespace": namespace,
            "annotations": {CAPTURE_ANNOTATION: f"{owner['kind']} {image.name!r}"},
            "ownerReferences": [owner],
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "containers": [container],
            "volumes": [{"name": "disk", "persistentVolumeClaim": {"claimName": claim_name(disk_name)}}],
        },
    }


def capture_end(pod: Object) -> CaptureEnd:
    """The capture's last word; an interruption, to be tried again, if it left none."""
    status = pod.get("status") or {}
    detail = status.get("message") or status.get("reason") or "the pod ended"
    for container in status.get("containerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated")
        if ended:
            try:
                return CaptureEnd.model_validate_json(ended.get("message") or "")
            except ValueError:
                detail = f"exit code {ended.get('exitCode')}: {ended.get('message') or ended.get('reason') or 'killed'}"
    return CaptureEnd(reason="CaptureInterrupted", message=f"the capture was cut off ({detail})", retryable=True)


def _disk_of(image: Subject[ImageStatus], source: DataSource) -> tuple[str, str]:
    """Name and namespace of the disk; one of a cluster's image names both."""
    reference = getattr(source, "virtual_machine_disk", None)
    name = reference.name if reference else ""
    own = reference.namespace if isinstance(reference, NamedInNamespace) else image.namespace
    return name, own or ""
