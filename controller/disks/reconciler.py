"""VirtualMachineDisk."""

import random

from controller.api.disk import DiskPhase, DiskProvisioning, DiskSpec, DiskStatus
from controller.api.image import Machine, Target
from controller.api.quantity import format_bytes, parse_bytes
from controller.api.resource import DISK, PVC
from controller.disks.claim import (
    DiskOrigin,
    build_claim,
    claim_name,
    disk_bytes,
    is_bound,
    is_lost,
    provided_bytes,
    requested_bytes,
    resized,
)
from controller.disks.filling import Filling
from controller.disks.loss import IMAGE_AVAILABLE, find_loss, imports_for_itself
from controller.disks.origin import Waiting, find_origin, import_target
from controller.disks.storage_class import volume_profile, waits_for_consumer, waits_for_volume
from controller.disks.usage import machines_with, pods_using, user_of
from controller.images.existing import ExistingImages
from controller.images.importing import READY, ImageImport
from controller.images.retrying import is_retrying
from controller.runtime.conditions import Clock, find_condition, utc_now
from controller.runtime.errors import ClusterError, ConflictError, MissingError
from controller.runtime.index import Key, Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import MAINTAINED, Subject
from dvcr.errors import DvcrError, RegistryError

RESIZED = "Resized"
"""The condition of a disk whose growth was refused once."""
_SMALLER = "DiskSmallerThanImage"
_RESIZE_AGAIN_S = 60.0
_VOLUME_AGAIN_S = 30.0


class DiskReconciler:
    """Makes the claim of a disk, once what the disk starts from is known, and keeps its size."""

    def __init__(
        self,
        cluster: ClusterPort,
        images: ExistingImages,
        imports: ImageImport,
        filling: Filling,
        default_storage_class: str,
        clock: Clock = utc_now,
        *,
        check_s: float,
    ) -> None:
        """What a disk imported for itself, and still reads from, is looked for every `check_s` at least."""
        self._cluster = cluster
        self._images = images
        self._imports = imports
        self._filling = filling
        self._default_storage_class = default_storage_class
        self._clock = clock
        self._check_s = check_s

    def reconcile(self, key: Key) -> float | None:
        obj = self._cluster.get(DISK, key[1], key[0])
        if obj is None:
            return None
        disk = Subject(self._cluster, DISK, obj, DiskStatus, self._clock)
        if disk.deleting and disk.finalized:
            return None
        try:
            again_s = self._remove(disk) if disk.deleting else self._bring_forward(disk)
        except DvcrError as exc:
            self._tell_trouble(disk, exc)
            raise
        # One without our finalizer may be gone.
        if not disk.finalized:
            disk.save()
        return again_s

    def _bring_forward(self, disk: Subject[DiskStatus]) -> float | None:
        disk.hold()
        if disk.status.phase is DiskPhase.FAILED and not (
            disk.status.failure_reason == _SMALLER or is_retrying(disk.status.conditions)
        ):
            return None
        spec = DiskSpec.read(disk.obj["spec"])
        claim = self._cluster.get(PVC, claim_name(disk.name), disk.namespace)
        return self._follow_claim(disk, spec, claim) if claim is not None else self._provision(disk, spec)

    def _provision(self, disk: Subject[DiskStatus], spec: DiskSpec) -> float | None:
        if disk.status.phase in (DiskPhase.READY, DiskPhase.RESIZING, DiskPhase.PVC_LOST):
            disk.status.phase = DiskPhase.PVC_LOST
            message = (
                f"PersistentVolumeClaim {claim_name(disk.name)!r} is gone; restore it from a backup under this name,"
                " or recreate the disk"
            )
            disk.condition(READY, False, "PVCLost", message)
            return None
        origin: DiskOrigin | None = None
        if spec.data_source is not None:
            found = find_origin(self._images, self._imports, disk, spec.data_source)
            if isinstance(found, Waiting):
                return self._wait(disk, found)
            origin = found
        given = spec.persistent_volume_claim.size
        size_bytes = parse_bytes(given) if given is not None else (origin.virtual_size_bytes if origin else 0)
        if origin and size_bytes < origin.virtual_size_bytes:
            needed = format_bytes(origin.virtual_size_bytes)
            message = f"the disk's size {given} is smaller than the image's unpacked size {needed}; ask for {needed}"
            self._fail(disk, _SMALLER, message)
            return None
        storage_class = spec.persistent_volume_claim.storage_class_name or self._default_storage_class
        profile = volume_profile(self._cluster, storage_class)
        claim = build_claim(
            claim_name(disk.name),
            disk.namespace or "",
            disk.owner_reference(),
            size_bytes,
            storage_class,
            profile,
            origin,
        )
        claim = self._cluster.create(PVC, claim)
        return self._follow_claim(disk, spec, claim)

    def _follow_claim(self, disk: Subject[DiskStatus], spec: DiskSpec, claim: Object) -> float | None:
        status = disk.status
        status.failure_reason = status.failure_message = None
        url = status.target.registry_url if status.target else None
        status.target = Target(registry_url=url, persistent_volume_claim_name=claim_name(disk.name))
        users = machines_with(self._cluster, DISK, (disk.namespace or "", disk.name))
        status.used_in_vms = [Machine(name=name, namespace=space) for space, name in users] or None
        claim, again_s = self._resize(disk, spec, claim)
        if is_lost(claim):
            status.phase = DiskPhase.PVC_LOST
            message = f"the volume behind PersistentVolumeClaim {claim_name(disk.name)!r} is gone; bring it back"
            disk.condition(READY, False, "PVCLost", message)
            return again_s
        bound = is_bound(claim)
        if not bound and not waits_for_consumer(self._cluster, claim["spec"].get("storageClassName") or ""):
            status.phase = DiskPhase.PROVISIONING
            disk.condition(READY, False, "WaitForVolume", waits_for_volume(self._cluster, claim))
            # A storage class whose volumes wait for a pod changes no claim when it comes to be.
            return _VOLUME_AGAIN_S if again_s is None else again_s
        if bound and provided_bytes(claim) < requested_bytes(claim):
            status.phase = DiskPhase.RESIZING
            message = f"grows from {status.capacity or 'less'} to {format_bytes(disk_bytes(claim))}"
            disk.condition(READY, False, "Resizing", message)
            return again_s
        status.capacity = format_bytes(disk_bytes(claim))
        look_s = self._tell_loss(disk, claim)
        again_s = min((seconds for seconds in (again_s, look_s) if seconds is not None), default=None)
        if spec.provisioning is DiskProvisioning.EAGER:
            waiting = self._filling.advance(disk, claim)
            if waiting is not None:
                return self._wait(disk, waiting)
        status.phase = DiskPhase.READY
        status.progress = "100%"
        later = "" if bound else "; its volume is made where a machine first uses it"
        disk.condition(READY, True, "Ready", f"the disk can be used{later}")
        return again_s

    def _tell_loss(self, disk: Subject[DiskStatus], claim: Object) -> float | None:
        """Say whether what the disk still reads from is lost, or was; when to look again, where no image tells."""
        again_s = self._check_s * random.uniform(0.5, 1) if imports_for_itself(claim) else None
        try:
            loss = find_loss(self._cluster, self._imports, disk, claim)
        except RegistryError:
            return again_s  # nothing newer is known
        if loss is not None:
            disk.condition(IMAGE_AVAILABLE, False, loss.reason, loss.message)
        elif find_condition(disk.status.conditions, IMAGE_AVAILABLE) is not None:
            disk.condition(IMAGE_AVAILABLE, True, "Available", "the image is back, or not needed any more")
        return again_s

    def _resize(self, disk: Subject[DiskStatus], spec: DiskSpec, claim: Object) -> tuple[Object, float | None]:
        """Ask for the size of the spec; the claim as it is then, and when to ask again if that was refused."""
        given, has_bytes = spec.persistent_volume_claim.size, disk_bytes(claim)
        if given is not None and parse_bytes(given) > has_bytes:
            patch = resized(claim["spec"].get("volumeMode", ""), parse_bytes(given))
            try:
                claim = self._cluster.patch(PVC, claim_name(disk.name), patch, disk.namespace)
            except (ConflictError, MissingError):
                raise
            except ClusterError as exc:
                # The disk serves on as large as it is.
                refused = f"the cluster refuses to grow the disk from {format_bytes(has_bytes)} to {given}"
                disk.condition(RESIZED, False, "ResizeRefused", f"{refused}: {exc.message}; it is asked again")
                return claim, _RESIZE_AGAIN_S
        if find_condition(disk.status.conditions, RESIZED) is not None:
            disk.condition(RESIZED, True, "Resized", "the claim asks for the size of the disk")
        return claim, None

    def _wait(self, disk: Subject[DiskStatus], waiting: Waiting) -> float | None:
        if waiting.failed:
            self._fail(disk, waiting.reason, waiting.message)
            return waiting.again_s
        disk.status.failure_reason = disk.status.failure_message = None
        disk.status.phase = DiskPhase.PENDING
        if waiting.upload:
            disk.status.phase = DiskPhase.WAIT_FOR_USER_UPLOAD
        if waiting.importing:
            disk.status.phase = DiskPhase.PROVISIONING
        disk.condition(READY, False, waiting.reason, waiting.message)
        return waiting.again_s

    def _fail(self, disk: Subject[DiskStatus], reason: str, message: str) -> None:
        disk.status.phase = DiskPhase.FAILED
        disk.status.failure_reason, disk.status.failure_message = reason, message
        disk.condition(READY, False, reason or "ImportFailed", message)

    def _remove(self, disk: Subject[DiskStatus]) -> float | None:
        disk.status.phase = DiskPhase.TERMINATING
        if not self._filling.clear(disk):
            disk.condition(READY, False, "Terminating", "waits for the end of the copy of its image")
            return 1
        users = [user_of(pod) for pod in pods_using(self._cluster, claim_name(disk.name), disk.namespace)]
        if users:
            disk.condition(READY, False, "InUse", f"waits for {', '.join(users)} to stop using the disk")
            return 5
        spec = DiskSpec.read(disk.obj["spec"])
        if spec.data_source is not None:
            self._imports.forget(import_target(disk), disk.status)
        disk.let_go()
        return None

    def _tell_trouble(self, disk: Subject[DiskStatus], exc: DvcrError) -> None:
        """The registry or the broker does not answer, or the cluster refuses what is made: it is tried again."""
        disk.status.phase = disk.status.phase or DiskPhase.PENDING
        failed = disk.status.phase is DiskPhase.FAILED and isinstance(exc, ClusterError)
        # Why it failed stays said.
        disk.tell_trouble(MAINTAINED if failed else READY, exc)
