"""`storage: PersistentVolumeClaim`: the claim of an image, filled from its artifact, which stays in the registry."""

from dataclasses import replace

from controller.api.image import ImageClaim, ImageStatus, Target
from controller.api.resource import PVC
from controller.disks.claim import DiskOrigin, build_claim, image_claim_name, is_bound, is_lost
from controller.disks.filling import Filling
from controller.disks.origin import Waiting
from controller.disks.storage_class import volume_profile, waits_for_volume
from controller.disks.usage import pods_using, user_of
from controller.images.registry import Artifact
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import Subject

IMPORT_SHARE_PERCENT = 50
"""How much of the progress of such an image is its import; the rest is the copy into the claim."""
PVC_LOST = "PVCLost"
"""The reason of an image whose claim, or the volume behind it, is gone."""


class ImageVolume:
    """Brings the claims of images forward, one look at a time."""

    def __init__(self, cluster: ClusterPort, filling: Filling, default_storage_class: str) -> None:
        self._cluster = cluster
        self._filling = filling
        self._default_storage_class = default_storage_class

    def advance(
        self, image: Subject[ImageStatus], wanted: ImageClaim, stored: Artifact, *, was_filled: bool
    ) -> Waiting | None:
        """Do what is next for the claim, and name it in the status; None once the image is in it whole.

        The claim of an image that `was_filled` is not made again: PVCLost. Raises as `volume_profile` does.
        """
        name = image_claim_name(image.name)
        claim = self._cluster.get(PVC, name, image.namespace)
        if claim is None and was_filled:
            message = f"PersistentVolumeClaim {name!r} is gone; restore it from a backup under this name, or delete the"
            return Waiting(PVC_LOST, f"{message} image and create it again")
        if claim is None:
            claim = self._create(image, name, wanted, stored)
        url = image.status.target.registry_url if image.status.target else None
        image.status.target = Target(registry_url=url, persistent_volume_claim_name=name)
        if is_lost(claim):
            return Waiting(PVC_LOST, f"the volume behind PersistentVolumeClaim {name!r} is gone; bring it back")
        # Some volumes come to be only where a pod is that wants them.
        waiting = self._filling.advance(image, claim, begun_percent=IMPORT_SHARE_PERCENT)
        if waiting is not None and not is_bound(claim):
            message = f"{waits_for_volume(self._cluster, claim)} ({waiting.message})"
            return replace(waiting, reason="WaitForVolume", message=message)
        return waiting

    def clear(self, image: Subject[ImageStatus]) -> str:
        """End the copy, if one runs; what the claim waits for until it can go, or nothing. Idempotent."""
        if not self._filling.clear(image):
            return "for the end of the copy into its claim"
        users = [user_of(pod) for pod in pods_using(self._cluster, image_claim_name(image.name), image.namespace)]
        return f"for {', '.join(users)} to stop using its claim" if users else ""

    def _create(self, image: Subject[ImageStatus], name: str, wanted: ImageClaim, stored: Artifact) -> Object:
        storage_class = wanted.storage_class_name or self._default_storage_class
        size_bytes = stored.virtual_size_bytes
        claim = build_claim(
            name,
            image.namespace or "",
            image.owner_reference(),
            size_bytes,
            storage_class,
            volume_profile(self._cluster, storage_class),
            DiskOrigin(stored.repository, str(stored.digest), size_bytes),
        )
        return self._cluster.create(PVC, claim)
