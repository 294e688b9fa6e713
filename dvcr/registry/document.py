"""What a manifest says, as far as the registry cares (image-spec, "Image Manifest" and "Image Index")."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dvcr.descriptor import DOCKER_MANIFEST, DOCKER_MANIFEST_LIST, IMAGE_INDEX, IMAGE_MANIFEST, Descriptor
from dvcr.digest import Digest
from dvcr.registry.errors import ManifestInvalidError

IMAGE_TYPES = {IMAGE_MANIFEST, DOCKER_MANIFEST}
INDEX_TYPES = {IMAGE_INDEX, DOCKER_MANIFEST_LIST}


@dataclass(frozen=True)
class ManifestDocument:
    """The parts of a manifest; media types that the registry does not know are read by the same field names."""

    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, body: bytes, media_type: str) -> Self:
        """Read `body`; raises ManifestInvalidError with what is wrong, also if it says to be of another media type."""
        try:
            value = json.loads(body)
            if not isinstance(value, dict):
                raise ManifestInvalidError("a manifest is a JSON object")
            _check_type(value, media_type)
            return cls(
                config=_descriptor(value, "config"),
                layers=(*_descriptors(value, "layers"), *_descriptors(value, "blobs")),
                manifests=tuple(_descriptors(value, "manifests")),
                subject=_descriptor(value, "subject"),
                artifact_type=_text(value, "artifactType"),
                annotations=_annotations(value),
            )
        except (ValueError, RecursionError) as exc:
            raise ManifestInvalidError(f"the manifest cannot be read: {exc}") from exc

    def blobs(self) -> Iterator[Digest]:
        """What garbage collection keeps for this manifest."""
        for descriptor in (*([self.config] if self.config else ()), *self.layers, *self.manifests):
            yield descriptor.digest

    def required_blobs(self) -> Iterator[Digest]:
        """What must be there before the manifest is: not what lies elsewhere, nor the parts of a sparse index."""
        if self.config:
            yield self.config.digest
        for layer in self.layers:
            if "nondistributable" not in layer.media_type and ".foreign." not in layer.media_type:
                yield layer.digest

    def as_referrer(self, media_type: str, digest: Digest, size_bytes: int) -> Descriptor:
        """The descriptor that the referrers API lists (distribution-spec, "Listing Referrers")."""
        artifact_type = self.artifact_type or (self.config.media_type if self.config else None)
        return Descriptor(media_type, digest, size_bytes, self.annotations, artifact_type)


def _check_type(value: Mapping[str, Any], media_type: str) -> None:
    stated = _text(value, "mediaType")
    if stated and stated != media_type:
        raise ManifestInvalidError(f"the manifest says it is {stated}, its Content-Type says {media_type}")
    if media_type in IMAGE_TYPES | INDEX_TYPES:
        wanted, other = ("layers", "manifests") if media_type in IMAGE_TYPES else ("manifests", "layers")
        if value.get("schemaVersion") != 2:
            raise ManifestInvalidError("schemaVersion must be 2")
        if media_type in IMAGE_TYPES and "config" not in value:
            raise ManifestInvalidError("an image manifest needs a config")
        if not isinstance(value.get(wanted), list):
            raise ManifestInvalidError(f"a manifest of type {media_type} needs a list of {wanted}")
        if other in value:
            raise ManifestInvalidError(
                f"a manifest of type {media_type} has no {other}: its meaning would be ambiguous"
            )


def _descriptor(value: Mapping[str, Any], name: str) -> Descriptor | None:
    part = value.get(name)
    return None if part is None else Descriptor.from_json(part)


def _descriptors(value: Mapping[str, Any], name: str) -> list[Descriptor]:
    part = value.get(name)
    if part is None:
        return []
    if not isinstance(part, list):
        raise ManifestInvalidError(f"{name} must be a list of descriptors")
    return [Descriptor.from_json(item) for item in part]


def _text(value: Mapping[str, Any], name: str) -> str | None:
    part = value.get(name)
    if part is not None and not isinstance(part, str):
        raise ManifestInvalidError(f"{name} must be a string")
    return part


def _annotations(value: Mapping[str, Any]) -> Mapping[str, str]:
    part = value.get("annotations") or {}
    if not isinstance(part, dict) or not all(isinstance(text, str) for text in part.values()):
        raise ManifestInvalidError("annotations must map strings to strings")
    return part
