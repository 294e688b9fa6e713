"""OCI descriptors and media types (image-spec, "Content Descriptors" and "Media Types")."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dvcr.digest import Digest

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY_JSON = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCTET_STREAM = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A typed, sized, content-addressed reference."""

    media_type: str
    digest: Digest
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The descriptor that parsed JSON describes; raises ValueError (KeyError, TypeError never) if it is none."""
        try:
            media_type, digest, size = value["mediaType"], value["digest"], value["size"]
        except (KeyError, TypeError) as exc:
            raise ValueError(f"a descriptor needs mediaType, digest and size: {exc}") from exc
        if not isinstance(media_type, str) or not isinstance(digest, str):
            raise ValueError("mediaType and digest of a descriptor must be strings")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError(f"size of a descriptor must be a non-negative integer, not {size!r}")
        return cls(
            media_type,
            Digest.parse(digest),
            size,
            value.get("annotations") or {},
            value.get("artifactType"),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object, without the fields that are empty."""
        out: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size_bytes}
        if self.artifact_type:
            out["artifactType"] = self.artifact_type
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        return out
