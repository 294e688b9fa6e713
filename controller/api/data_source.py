"""`spec.dataSource`: where an image or a disk comes from, and the rules for it."""

import base64
import binascii
import re
from enum import StrEnum
from urllib.parse import urlsplit

from controller.api.model import ApiModel, FieldError, field_path

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_CHECKSUM_HEX_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
_IMAGE = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::\d{1,5})?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64}|@sha512:[0-9a-f]{128})?"
)


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

    md5: str | None = None
    sha1: str | None = None
    sha256: str | None = None
    sha512: str | None = None


class Named(ApiModel):
    name: str


class NamedInNamespace(Named):
    namespace: str


class HttpSource(ApiModel):
    url: str
    ca_bundle: str | None = None
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
    image: str
    image_pull_secret: Named | None = None
    ca_bundle: str | None = None


class ClusterContainerImageSource(ContainerImageSource):
    image_pull_secret: NamedInNamespace | None = None


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

    type: DiskSourceType


class ImageDataSource(DataSource):
    """Of a VirtualMachineImage."""

    type: SourceType
    virtual_machine_disk: Named | None = None


class ClusterImageDataSource(ImageDataSource):
    """Of a ClusterVirtualMachineImage: references to namespaced objects name the namespace too."""

    http: ClusterHttpSource | None = None
    container_image: ClusterContainerImageSource | None = None
    virtual_machine_image: NamedInNamespace | None = None
    virtual_machine_disk: NamedInNamespace | None = None


def block_of(source_type: str) -> str:
    """The block that belongs to a type: its camelCase name."""
    return "http" if source_type == SourceType.HTTP else source_type[0].lower() + source_type[1:]


def check_data_source(source: DataSource, path: str) -> list[FieldError]:
    """The rules that the schema cannot say."""
    errors = []
    own = block_of(source.type)
    given = {name for name in source.write() if name != "type"}
    if own not in given and source.type != SourceType.UPLOAD:
        errors.append(FieldError(f"{path}.{own}", f"required when {path}.type is {source.type.value}"))
    for name in sorted(given - {own}):
        errors.append(FieldError(f"{path}.{name}", f"must not be set when {path}.type is {source.type.value}"))
    if source.http:
        errors += _check_http(source.http, f"{path}.http")
    if source.upload and source.upload.checksum:
        errors += _check_checksum(source.upload.checksum, f"{path}.upload.checksum")
    if source.container_image:
        errors += _check_container_image(source.container_image, f"{path}.containerImage")
    for name in ("virtualMachineImage", "clusterVirtualMachineImage", "virtualMachineDisk"):
        for key, value in source.write().get(name, {}).items():
            errors += check_name(value, f"{path}.{name}.{key}")
    return errors


def check_name(value: str, path: str) -> list[FieldError]:
    """A reference must be something that an object can be called."""
    if len(value) <= 253 and _NAME.fullmatch(value):
        return []
    return [FieldError(path, f"{value!r} is no object name: lower-case letters, digits, '-' and '.'")]


def _check_http(source: HttpSource, path: str) -> list[FieldError]:
    errors = []
    try:
        url = urlsplit(source.url)
        good = url.scheme in ("http", "https") and bool(url.hostname) and not re.search(r"\s", source.url)
        good = good and (url.port is None or url.port > 0)
    except ValueError:
        good = False
    if not good:
        errors.append(FieldError(f"{path}.url", f"{source.url!r} is no http:// or https:// URL"))
    if source.checksum:
        errors += _check_checksum(source.checksum, f"{path}.checksum")
    if source.secret_ref:
        for key, value in source.secret_ref.write().items():
            errors += check_name(value, f"{path}.secretRef.{key}")
    return errors + _check_ca_bundle(source.ca_bundle, path)


def _check_container_image(source: ContainerImageSource, path: str) -> list[FieldError]:
    errors = []
    if not _IMAGE.fullmatch(source.image):
        message = f"{source.image!r} is no image reference; write registry.example.com/folder/image:tag"
        errors.append(FieldError(f"{path}.image", message))
    if source.image_pull_secret:
        for key, value in source.image_pull_secret.write().items():
            errors += check_name(value, f"{path}.imagePullSecret.{key}")
    return errors + _check_ca_bundle(source.ca_bundle, path)


def _check_checksum(checksum: Checksum, path: str) -> list[FieldError]:
    return [
        FieldError(field_path(path, algorithm), f"must be {_CHECKSUM_HEX_DIGITS[algorithm]} hexadecimal digits")
        for algorithm, value in checksum.write().items()
        if not re.fullmatch(rf"[0-9a-fA-F]{{{_CHECKSUM_HEX_DIGITS[algorithm]}}}", value)
    ]


def _check_ca_bundle(bundle: str | None, path: str) -> list[FieldError]:
    if bundle is None:
        return []
    try:
        good = b"-----BEGIN CERTIFICATE-----" in base64.b64decode(bundle, validate=True)
    except (binascii.Error, ValueError):
        good = False
    return [] if good else [FieldError(f"{path}.caBundle", "must be base64 of certificates in PEM form")]
