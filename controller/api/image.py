"""ClusterVirtualMachineImage and VirtualMachineImage."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from controller.api.data_source import ClusterImageDataSource, ImageDataSource
from controller.api.model import ApiModel, ChangeRule, Condition, ModelRule
from controller.api.rules import Rule, fixed, name_up_to

# A repository's name has at most 255 characters; it is cvmi/NAME, and vmi/NAMESPACE/NAME with a namespace of up to 63.
_REPOSITORY = "its repository in the registry is named after it"
CLUSTER_IMAGE_RULES = (name_up_to(250, _REPOSITORY),)
IMAGE_RULES = (name_up_to(187, _REPOSITORY),)


class ImagePhase(StrEnum):
    PENDING = "Pending"
    WAIT_FOR_USER_UPLOAD = "WaitForUserUpload"
    PROVISIONING = "Provisioning"
    READY = "Ready"
    FAILED = "Failed"
    IMAGE_LOST = "ImageLost"
    PVC_LOST = "PVCLost"
    TERMINATING = "Terminating"
    UNKNOWN = "Unknown"


class Storage(StrEnum):
    CONTAINER_REGISTRY = "ContainerRegistry"
    PERSISTENT_VOLUME_CLAIM = "PersistentVolumeClaim"


class ImageClaim(ApiModel):
    storage_class_name: str | None = Field(None, max_length=253)


class ClusterImageSpec(ApiModel):
    changes: ClassVar[tuple[ChangeRule, ...]] = fixed()
    data_source: ClusterImageDataSource


class ImageSpec(ApiModel):
    rules: ClassVar[tuple[ModelRule, ...]] = (
        Rule(
            f"!has(self.persistentVolumeClaim) || self.storage == '{Storage.PERSISTENT_VOLUME_CLAIM}'",
            lambda spec: spec.persistent_volume_claim is None or spec.storage is Storage.PERSISTENT_VOLUME_CLAIM,
            f"must not be set when spec.storage is {Storage.CONTAINER_REGISTRY}",
            "persistentVolumeClaim",
        ),
    )
    changes: ClassVar[tuple[ChangeRule, ...]] = fixed()
    data_source: ImageDataSource
    storage: Storage = Storage.CONTAINER_REGISTRY
    persistent_volume_claim: ImageClaim | None = None


class DownloadSpeed(ApiModel):
    avg: str | None = None
    current: str | None = None
    avg_bytes: str | None = None
    current_bytes: str | None = None


class ImageSize(ApiModel):
    stored: str
    stored_bytes: str
    unpacked: str
    unpacked_bytes: str


class Target(ApiModel):
    registry_url: str | None = Field(None, alias="registryURL")
    persistent_volume_claim_name: str | None = None


class UploadUrls(ApiModel):
    external: str
    in_cluster: str


class Machine(ApiModel):
    name: str
    namespace: str


class ImportStatus(ApiModel):
    """What images and disks tell of an import, and of their users."""

    progress: str | None = None
    download_speed: DownloadSpeed | None = None
    import_duration: str | None = None
    target: Target | None = None
    upload_command: str | None = None
    image_upload_urls: UploadUrls | None = Field(None, alias="imageUploadURLs")
    failure_reason: str | None = None
    failure_message: str | None = None
    used_in_vms: list[Machine] | None = Field(None, alias="usedInVMs")
    conditions: list[Condition] = Field(default_factory=list)
    observed_generation: int | None = None


class ImageStatus(ImportStatus):
    phase: ImagePhase | None = None
    format: str | None = None
    cdrom: bool | None = None
    size: ImageSize | None = None
