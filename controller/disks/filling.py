"""`provisioning: Eager`: a pod where the disk is copies the image into it before the disk is Ready."""

from controller.api.disk import DiskStatus
from controller.api.resource import POD, PVC
from controller.disks.claim import claim_name, filled, stands_alone
from controller.disks.origin import Waiting
from controller.disks.usage import is_over
from controller.disks.work import WorkProgress, build_work_pod, work_disk, work_end
from controller.images.importing import advance_progress
from controller.launcher.spec import DiskSpec, FillSpec
from controller.machines.setup import LauncherSetup
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import Subject

_POLL_S = 1.0
_RETRY_S = 5.0


class DiskFilling:
    """Brings the copying of images into disks forward, one look at a time."""

    def __init__(self, cluster: ClusterPort, progress: WorkProgress, setup: LauncherSetup) -> None:
        self._cluster = cluster
        self._progress = progress
        self._setup = setup

    def advance(self, disk: Subject[DiskStatus], claim: Object) -> Waiting | None:
        """Do what is next for the disk in the bound claim; None once it stands alone."""
        pod = self._cluster.get(POD, pod_name(disk.uid), disk.namespace)
        if stands_alone(claim):
            self.clear(disk)
            return None
        if pod is None:
            self._cluster.create(POD, self._build_pod(disk, work_disk(disk.name, claim)))
            return _copying(disk, 0, "the copy of the image starts")
        if "deletionTimestamp" in pod["metadata"]:
            return _copying(disk, 0, "waits for the end of a copy that was interrupted")
        if not is_over(pod):
            address = (pod.get("status") or {}).get("podIP")
            told = self._progress.read(address) if address else None
            if told is None:
                node = pod["spec"].get("nodeName")
                return _copying(disk, 0, "the copy starts" if node else "waits for a node that can mount the disk")
            return _copying(disk, told.percent, told.message or f"{told.percent}% of the image is copied")
        end = work_end(pod)
        if not end.reason:
            self._cluster.patch(PVC, claim_name(disk.name), filled(claim), disk.namespace)
        self._delete(disk, pod)
        if not end.reason:
            return None
        if end.retryable:
            return Waiting(end.reason, f"{end.message}; is tried again", _RETRY_S, importing=True)
        return Waiting(end.reason, end.message, failed=True)

    def clear(self, disk: Subject[DiskStatus]) -> bool:
        """End the copy, if one runs; whether its pod is gone. Idempotent."""
        pod = self._cluster.get(POD, pod_name(disk.uid), disk.namespace)
        if pod is None:
            return True
        if "deletionTimestamp" not in pod["metadata"]:
            self._delete(disk, pod)
        return self._cluster.get(POD, pod_name(disk.uid), disk.namespace) is None

    def _build_pod(self, disk: Subject[DiskStatus], spec: DiskSpec) -> Object:
        metadata = {
            "name": pod_name(disk.uid),
            "namespace": disk.namespace,
            "ownerReferences": [disk.owner_reference()],
        }
        return build_work_pod(metadata, spec, "fill", FillSpec(disk=spec), self._setup)

    def _delete(self, disk: Subject[DiskStatus], pod: Object) -> None:
        grace_s = 0 if is_over(pod) else None
        metadata = pod["metadata"]
        self._cluster.delete(POD, metadata["name"], disk.namespace, grace_period_s=grace_s, uid=metadata["uid"])


def pod_name(disk_uid: str) -> str:
    """Name of the pod that fills a disk: fixed, so there can never be two."""
    return f"fill-{disk_uid}"


def _copying(disk: Subject[DiskStatus], percent: int, message: str) -> Waiting:
    advance_progress(disk.status, percent)
    return Waiting("Copying", message, _POLL_S, importing=True)
