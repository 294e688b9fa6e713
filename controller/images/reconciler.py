"""ClusterVirtualMachineImage and VirtualMachineImage."""

import random
from dataclasses import replace

from pydantic import ValidationError

from controller.api.data_source import ImageDataSource, SourceType
from controller.api.image import (
    ClusterImageSpec,
    ImageClaim,
    ImagePhase,
    ImageSize,
    ImageSpec,
    ImageStatus,
    Machine,
    Storage,
)
from controller.api.quantity import human_bytes
from controller.api.resource import IMAGE, Resource
from controller.disks.claim import image_claim_name
from controller.images.capture import DiskCapture
from controller.images.existing import IMAGE_LOST, repository_of
from controller.images.importing import READY, ImageImport, ImportOutcome, ImportState, ImportTarget
from controller.images.registry import Artifact
from controller.images.reservations import Reservations
from controller.images.retrying import is_retrying, tell_retrying
from controller.images.usage import ImageUsage, find_usage
from controller.images.volume import IMPORT_SHARE_PERCENT, PVC_LOST, ImageVolume
from controller.runtime.conditions import Clock, find_condition, utc_now
from controller.runtime.errors import ClusterError
from controller.runtime.index import Key
from controller.runtime.port import ClusterPort
from controller.runtime.subject import MAINTAINED, Subject
from dvcr.errors import DvcrError, ImageError, IntegrityError, RegistryError

REGISTRY_AVAILABLE = "RegistryAvailable"
"""The condition of an image that could not be looked for once, because the registry did not answer."""
_RESERVED_S = 1.0
_ONCE_READY = (ImagePhase.READY, ImagePhase.IMAGE_LOST, ImagePhase.PVC_LOST)


class ImageReconciler:
    """Makes the artifact of an image exist in the registry, and notices when it is lost."""

    def __init__(
        self,
        cluster: ClusterPort,
        resource: Resource,
        imports: ImageImport,
        captures: DiskCapture,
        volumes: ImageVolume,
        reservations: Reservations,
        clock: Clock = utc_now,
        *,
        check_s: float,
    ) -> None:
        """An image that was Ready once is looked for every `check_s` at least, each at a time of its own."""
        self._cluster = cluster
        self._resource = resource
        self._imports = imports
        self._captures = captures
        self._volumes = volumes
        self._reservations = reservations
        self._clock = clock
        self._check_s = check_s

    def reconcile(self, key: Key) -> float | None:
        obj = self._cluster.get(self._resource, key[1], key[0] or None)
        if obj is None:
            return None
        image = Subject(self._cluster, self._resource, obj, ImageStatus, self._clock)
        target = ImportTarget(
            repository_of(self._resource, image.name, image.namespace), image.uid, image.namespace or ""
        )
        if image.deleting:
            return self._remove(image, target)
        try:
            image.hold()
            if image.status.phase is ImagePhase.FAILED and not is_retrying(image.status.conditions):
                again_s = None
            else:
                again_s = self._bring_forward(image, target)
        except DvcrError as exc:
            self._tell_trouble(image, exc)
            raise
        image.save()
        return again_s

    def _bring_forward(self, image: Subject[ImageStatus], target: ImportTarget) -> float | None:
        try:
            spec = (ImageSpec if self._resource == IMAGE else ClusterImageSpec).read(image.obj["spec"])
        except ValidationError as exc:
            self._fail(image, "InvalidSpec", str(exc))
            return None
        claim = _wanted_claim(spec)
        if image.status.phase in _ONCE_READY:
            return self._check_kept(image, target, claim)
        if claim is not None:
            target = replace(target, share_percent=IMPORT_SHARE_PERCENT)
        if spec.data_source.type is SourceType.DISK:
            outcome = self._capture(image, target, spec.data_source)
        else:
            outcome = self._imports.advance(target, spec.data_source, image.status, image.identity)
        return self._tell(image, outcome, claim)

    def _capture(self, image: Subject[ImageStatus], target: ImportTarget, source: ImageDataSource) -> ImportOutcome:
        done = self._imports.done(target, image.status)
        if done is None:
            return self._captures.advance(image, target, source)
        self._captures.clear(image, source)
        return done

    def _check_kept(self, image: Subject[ImageStatus], target: ImportTarget, claim: ImageClaim | None) -> float:
        # All at once would be a burst at the registry every time.
        again_s = self._check_s * random.uniform(0.5, 1)
        try:
            stored = self._imports.find(target)
        except RegistryError as exc:
            self._tell_registry(image, exc)
            return again_s
        except (ImageError, IntegrityError) as exc:
            self._lose(image, exc.reason, f"{exc.message}; push it again, or create the resource again")
            return again_s
        self._tell_registry(image, None)
        if stored is not None:
            return self._tell_stored(image, stored, claim) or again_s
        where = f"{target.repository}:{target.uid} is not in the registry any more"
        self._lose(image, IMAGE_LOST, f"{where}; push it again, or create the resource again")
        return again_s

    def _lose(self, image: Subject[ImageStatus], reason: str, message: str) -> None:
        image.status.phase = ImagePhase.IMAGE_LOST
        image.condition(READY, False, reason, message)

    def _tell_registry(self, image: Subject[ImageStatus], error: RegistryError | None) -> None:
        """Say whether the image could be looked for, once it could not: nothing is known to be lost meanwhile."""
        known = find_condition(image.status.conditions, REGISTRY_AVAILABLE)
        if error is None:
            if known is not None:
                image.condition(REGISTRY_AVAILABLE, True, "Available", "the registry answers again")
        elif known is None or known.reason != error.reason:  # of its words the first will do
            message = f"{error.message}; the phase is as it was when the registry answered last"
            image.condition(REGISTRY_AVAILABLE, False, error.reason, message)

    def _tell(self, image: Subject[ImageStatus], outcome: ImportOutcome, claim: ImageClaim | None) -> float | None:
        if outcome.state is ImportState.FAILED:
            self._fail(image, outcome.reason, outcome.message)
            tell_retrying(image, outcome)
            return outcome.again_s
        tell_retrying(image, outcome)
        image.status.failure_reason = image.status.failure_message = None
        if outcome.image is not None:
            return self._tell_stored(image, outcome.image, claim)
        image.status.phase = {
            ImportState.WAITING: ImagePhase.PENDING,
            ImportState.WAIT_FOR_UPLOAD: ImagePhase.WAIT_FOR_USER_UPLOAD,
            ImportState.RUNNING: ImagePhase.PROVISIONING,
        }[outcome.state]
        image.condition(READY, False, outcome.reason, outcome.message)
        return outcome.again_s

    def _tell_stored(self, image: Subject[ImageStatus], stored: Artifact, claim: ImageClaim | None) -> float | None:
        """The artifact is there; so is the image, unless it is to be in a claim as well."""
        waiting = None
        if claim is not None:
            was_filled = image.status.phase in _ONCE_READY
            waiting = self._volumes.advance(image, claim, stored, was_filled=was_filled)
        if waiting is None:
            self._tell_ready(image, stored, in_claim=claim is not None)
            return None
        if waiting.failed:
            self._fail(image, waiting.reason, waiting.message)
            return None
        image.status.phase = ImagePhase.PVC_LOST if waiting.reason == PVC_LOST else ImagePhase.PROVISIONING
        image.condition(READY, False, waiting.reason, waiting.message)
        return waiting.again_s

    def _tell_ready(self, image: Subject[ImageStatus], stored: Artifact, *, in_claim: bool) -> None:
        image.status.phase = ImagePhase.READY
        image.status.progress = "100%"
        image.status.format = stored.format
        image.status.cdrom = stored.cdrom
        image.status.size = ImageSize(
            stored=human_bytes(stored.stored_bytes),
            stored_bytes=str(stored.stored_bytes),
            unpacked=human_bytes(stored.virtual_size_bytes),
            unpacked_bytes=str(stored.virtual_size_bytes),
        )
        self._tell_machines(image, self._usage(image, stored))
        where = f" and in PersistentVolumeClaim {image_claim_name(image.name)!r}" if in_claim else ""
        image.condition(READY, True, "Ready", f"the image is in the registry{where}")

    def _usage(self, image: Subject[ImageStatus], stored: Artifact) -> ImageUsage:
        return find_usage(self._cluster, self._reservations, image.identity, stored)

    def _tell_machines(self, image: Subject[ImageStatus], usage: ImageUsage) -> None:
        image.status.used_in_vms = [Machine(name=name, namespace=space) for space, name in usage.machines] or None

    def _fail(self, image: Subject[ImageStatus], reason: str, message: str) -> None:
        image.status.phase = ImagePhase.FAILED
        image.status.failure_reason, image.status.failure_message = reason, message
        image.condition(READY, False, reason or "ImportFailed", message)

    def _remove(self, image: Subject[ImageStatus], target: ImportTarget) -> float | None:
        if image.finalized:
            return None
        image.status.phase = ImagePhase.TERMINATING
        try:
            again_s, obstacle = self._clear(image, target)
            if not obstacle:
                image.let_go()
                return None
        except DvcrError as exc:
            self._tell_trouble(image, exc)
            raise
        image.condition(READY, False, "InUse", obstacle)
        image.save()
        return again_s

    def _clear(self, image: Subject[ImageStatus], target: ImportTarget) -> tuple[float | None, str]:
        """Remove what there is of the image, or say what is in the way, and when to look again."""
        try:
            spec = (ImageSpec if self._resource == IMAGE else ClusterImageSpec).read(image.obj["spec"])
        except ValidationError:
            spec = None  # nothing was ever begun for it
        if spec is not None and not self._captures.clear(image, spec.data_source):
            return 1, "waits for the end of the capture, which must not publish what is removed"
        if spec is not None and _wanted_claim(spec) is not None and (waits := self._volumes.clear(image)):
            return 1, f"waits {waits}"
        stored = self._imports.find(target)
        if stored is not None:
            usage = self._usage(image, stored)
            self._tell_machines(image, usage)
            if obstacle := usage.obstacle():
                return (_RESERVED_S if usage.beginning else None), obstacle
        self._imports.forget(target, image.status)
        return None, ""

    def _tell_trouble(self, image: Subject[ImageStatus], exc: DvcrError) -> None:
        """The registry or the broker does not answer, or the cluster refuses what is made: it is tried again."""
        image.status.phase = image.status.phase or ImagePhase.PENDING
        failed = image.status.phase is ImagePhase.FAILED and isinstance(exc, ClusterError)
        # Why it failed stays said.
        image.tell_trouble(MAINTAINED if failed else READY, exc)


def _wanted_claim(spec: ClusterImageSpec | ImageSpec) -> ImageClaim | None:
    """How the image is to be kept in a claim, if it is."""
    if isinstance(spec, ImageSpec) and spec.storage is Storage.PERSISTENT_VOLUME_CLAIM:
        return spec.persistent_volume_claim or ImageClaim()
    return None
