"""Copying an image into a claim whole: of a disk with `provisioning: Eager`, or of an image that is kept in one.

A pod where the volume is does it, before the resource is Ready.
"""

from typing import TypeVar

from controller.api.image import ImportStatus
from controller.api.resource import POD, PVC
from controller.disks.claim import filled, stands_alone
from controller.disks.origin import Waiting
from controller.disks.usage import is_over
from controller.disks.work import WorkProgress, build_work_pod, work_disk, work_end
from controller.images.importing import advance_progress
from controller.launcher.spec import DiskSpec, FillSpec
from controller.machines.setup import LauncherSetup
from controller.pod_start import with_obstacle
from controller.registry_access import RegistryAccess, pulls
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import Subject
from dvcr.errors import RegistryError

_POLL_S = 1.0
_RETRY_S = 5.0
S = TypeVar("S", bound=ImportStatus)


class Filling:
    """Brings the copying of images into claims forward, one look at a time."""

    def __init__(
        self, cluster: ClusterPort, progress: WorkProgress, setup: LauncherSetup, access: RegistryAccess
    ) -> None:
        self._cluster = cluster
        self._progress = progress
        self._setup = setup
        self._access = access

    def advance(self, owner: Subject[S], claim: Object, *, begun_percent: int = 0) -> Waiting | None:
        """Do what is next for the disk in the claim of `owner`; None once it stands alone.

        The progress in the owner's status goes on from `begun_percent`.
        """

        def copying(percent: int, message: str) -> Waiting:
            advance_progress(owner.status, begun_percent + percent * (100 - begun_percent) // 100)
            return Waiting("Copying", message, _POLL_S, importing=True)

        pod = self._cluster.get(POD, pod_name(owner.uid), owner.namespace)
        if stands_alone(claim):
            self.clear(owner)
            return None
        disk = work_disk(owner.name, claim)
        scopes = pulls([disk.image.repository] if disk.image else [], owner.namespace or "")
        if pod is None:
            try:
                self._access.create(self._cluster, self._build_pod(owner, claim, disk), scopes)
            except RegistryError as exc:
                return copying(0, exc.message)
            return copying(0, "the copy of the image starts")
        if "deletionTimestamp" in pod["metadata"]:
            return copying(0, "waits for the end of a copy that was interrupted")
        if not is_over(pod):
            self._access.keep_fresh(self._cluster, pod, scopes)
            address = (pod.get("status") or {}).get("podIP")
            told = self._progress.read(address) if address else None
            if told is None:
                node = pod["spec"].get("nodeName")
                waits = "the copy starts" if node else "waits for a node that can mount the disk"
                return copying(0, with_obstacle(waits, pod))
            return copying(told.percent, told.message or f"{told.percent}% of the image is copied")
        end = work_end(pod)
        if not end.reason:
            self._cluster.patch(PVC, claim["metadata"]["name"], filled(claim), owner.namespace)
        self._delete(owner, pod)
        if not end.reason:
            return None
        if end.retryable:
            return Waiting(end.reason, f"{end.message}; is tried again", _RETRY_S, importing=True)
        return Waiting(end.reason, end.message, failed=True)

    def clear(self, owner: Subject[S]) -> bool:
        """End the copy, if one runs; whether its pod is gone. Idempotent."""
        pod = self._cluster.get(POD, pod_name(owner.uid), owner.namespace)
        if pod is None:
            return True
        if "deletionTimestamp" not in pod["metadata"]:
            self._delete(owner, pod)
        return self._cluster.get(POD, pod_name(owner.uid), owner.namespace) is None

    def _build_pod(self, owner: Subject[S], claim: Object, disk: DiskSpec) -> Object:
        metadata = {
            "name": pod_name(owner.uid),
            "namespace": owner.namespace,
            "ownerReferences": [owner.owner_reference()],
        }
        return build_work_pod(metadata, claim["metadata"]["name"], disk, "fill", FillSpec(disk=disk), self._setup)

    def _delete(self, owner: Subject[S], pod: Object) -> None:
        grace_s = 0 if is_over(pod) else None
        metadata = pod["metadata"]
        self._cluster.delete(POD, metadata["name"], owner.namespace, grace_period_s=grace_s, uid=metadata["uid"])


def pod_name(owner_uid: str) -> str:
    """Name of the pod that fills the claim of a resource: fixed, so there can never be two."""
    return f"fill-{owner_uid}"
