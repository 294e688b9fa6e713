"""`spec.dataSource`: where an image or a disk comes from."""

from collections.abc import Iterable
from enum import StrEnum
from typing import ClassVar

from controller.api.model import ApiModel, ModelRule
from controller.api.rules import OneBlock
from controller.api.text import CaBundle, ImageReference, Md5, ObjectName, Sha1, Sha256, Sha512, Url


class SourceType(StrEnum):
    HTTP = "HTTP"
    CONTAINER_IMAGE = "ContainerImage"
    IMAGE = "VirtualMachineImage"
    CLUSTER_IMAGE = "ClusterVirtualMachineImage"
    UPLOAD = "Upload"
    DISK = "VirtualMachineDisk"


class DiskSourceType(StrEnum):
    """As SourceType: a disk cannot be made of a disk."""

    HTTP = "HTTP"
    CONTAINER_IMAGE = "ContainerImage"
    IMAGE = "VirtualMachineImage"
    CLUSTER_IMAGE = "ClusterVirtualMachineImage"
    UPLOAD = "Upload"


class Checksum(ApiModel):
    """Hex; the bytes as fetched must match every one that is given."""

    md5: Md5 | None = None
    sha1: Sha1 | None = None
    sha256: Sha256 | None = None
    sha512: Sha512 | None = None


class Named(ApiModel):
    name: ObjectName


class NamedInNamespace(Named):
    namespace: ObjectName


class HttpSource(ApiModel):
    url: Url
    ca_bundle: CaBundle | None = None
    """Base64 of the PEM chain to trust."""
    insecure_skip_verify: bool = False
    checksum: Checksum | None = None
    secret_ref: Named | None = None
    """Secret with `username` and `password`, and `headers` as lines `Name: value`, for the URL's own server."""


class ClusterHttpSource(HttpSource):
    secret_ref: NamedInNamespace | None = None


class UploadSource(ApiModel):
    checksum: Checksum | None = None


class ContainerImageSource(ApiModel):
    image: ImageReference
    image_pull_secret: Named | None = None
    ca_bundle: CaBundle | None = None


class ClusterContainerImageSource(ContainerImageSource):
    image_pull_secret: NamedInNamespace | None = None


def block_of(source_type: str) -> str:
    """The block that belongs to a type: its camelCase name."""
    return "http" if source_type == SourceType.HTTP else source_type[0].lower() + source_type[1:]


def _blocks(types: Iterable[str]) -> OneBlock:
    return OneBlock({str(type_): block_of(type_) for type_ in types}, optional=("upload",))


class DataSource(ApiModel):
    """What the data sources of all kinds share."""

    type: SourceType | DiskSourceType
    http: HttpSource | None = None
    container_image: ContainerImageSource | None = None
    virtual_machine_image: Named | None = None
    cluster_virtual_machine_image: Named | None = None
    upload: UploadSource | None = None

    @property
    def checksums(self) -> dict[str, str]:
        """Algorithm to lower-case hex."""
        block = self.http or self.upload
        given = block.checksum.write() if block and block.checksum else {}
        return {algorithm: value.lower() for algorithm, value in given.items()}


class DiskDataSource(DataSource):
    """Of a VirtualMachineDisk."""

    rules: ClassVar[tuple[ModelRule, ...]] = (_blocks(DiskSourceType),)
    type: DiskSourceType


class ImageDataSource(DataSource):
    """Of a VirtualMachineImage."""

    rules: ClassVar[tuple[ModelRule, ...]] = (_blocks(SourceType),)
    type: SourceType
    virtual_machine_disk: Named | None = None


class ClusterImageDataSource(ImageDataSource):
    """Of a ClusterVirtualMachineImage: references to namespaced objects name the namespace too."""

    http: ClusterHttpSource | None = None
    container_image: ClusterContainerImageSource | None = None
    virtual_machine_image: NamedInNamespace | None = None
    virtual_machine_disk: NamedInNamespace | None = None
