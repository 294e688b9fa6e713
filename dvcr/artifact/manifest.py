"""The disk artifact, version 1: a DiskImage to and from the JSON of its manifest and config.

Specified in docs/artifact-format.md. Parsing expects anything: whatever breaks the format is an ImageError, and costs
no more memory than a small multiple of the text.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic.alias_generators import to_camel

from dvcr.artifact.chunk import CHUNK_RAW, CHUNK_ZSTD
from dvcr.artifact.image import MAX_CHUNKS, Chunk, DiskImage, ImageSource
from dvcr.descriptor import EMPTY_JSON, IMAGE_MANIFEST, Descriptor
from dvcr.digest import Digest
from dvcr.errors import ImageError

ARTIFACT_TYPE = "application/vnd.dvcr.disk.v1"
CONFIG = "application/vnd.dvcr.disk.config.v1+json"
MAX_CONFIG_BYTES = 2**20
EMPTY = Descriptor(EMPTY_JSON, Digest.of(b"{}"), 2)
"""Stands in for the layers of a disk without chunks: a manifest should have one (image-spec, "Empty Descriptor")."""


class _Json(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class _Source(_Json):
    format: str
    size: int = Field(ge=0)
    checksums: dict[str, str]
    origin: str


class _Config(_Json):
    virtual_size: int
    chunk_size: int
    chunks: list[tuple[Annotated[int, Field(ge=0, lt=MAX_CHUNKS)], Annotated[int, Field(ge=1, le=MAX_CHUNKS)]]] = Field(
        max_length=MAX_CHUNKS
    )
    cdrom: bool
    source: _Source
    created: AwareDatetime


def _digest(value: object) -> Digest:
    if not isinstance(value, str):
        raise ValueError("a digest is a string")
    return Digest.parse(value)


class _Descriptor(_Json):
    media_type: str
    digest: Annotated[Digest, PlainValidator(_digest)]
    size: int = Field(ge=0)

    def value(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, self.size)


class _Kind(_Json):
    media_type: str = ""
    artifact_type: str = ""


class _Manifest(_Json):
    schema_version: Literal[2]
    config: _Descriptor
    layers: list[_Descriptor] = Field(max_length=MAX_CHUNKS)


@dataclass(frozen=True)
class DiskManifest:
    """The manifest of a disk artifact; with its config it makes a DiskImage."""

    config: Descriptor
    layers: tuple[Descriptor, ...]

    @classmethod
    def of(cls, image: DiskImage, config: bytes) -> Self:
        """The manifest of an image whose config is `config_json(image)`."""
        layers = tuple(chunk.descriptor for chunk in image.chunks) or (EMPTY,)
        return cls(Descriptor(CONFIG, Digest.of(config), len(config)), layers)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """The manifest in `body`; ImageError `UnknownFormat` for another kind of artifact, `CorruptImage` if broken."""
        kind = _parse(_Kind, body, "manifest")
        if kind.media_type not in ("", IMAGE_MANIFEST) or kind.artifact_type != ARTIFACT_TYPE:
            found = kind.artifact_type or kind.media_type or "an image"
            raise ImageError(f"the manifest is no disk of DVCR but {found!r}", reason="UnknownFormat")
        manifest = _parse(_Manifest, body, "manifest")
        if manifest.config.media_type != CONFIG:
            raise _corrupt(f"the config has media type {manifest.config.media_type!r}, not {CONFIG}")
        if manifest.config.size > MAX_CONFIG_BYTES:
            raise _corrupt(f"the config has {manifest.config.size} bytes, over {MAX_CONFIG_BYTES}")
        return cls(manifest.config.value(), tuple(layer.value() for layer in manifest.layers))

    def to_json(self) -> bytes:
        """The manifest's body: one line, the same for the same image."""
        return _dump(
            {
                "schemaVersion": 2,
                "mediaType": IMAGE_MANIFEST,
                "artifactType": ARTIFACT_TYPE,
                "config": self.config.to_json(),
                "layers": [layer.to_json() for layer in self.layers],
            }
        )

    def image(self, config: bytes) -> DiskImage:
        """The disk that this manifest and its config describe; ImageError `CorruptImage` where they contradict."""
        value = _parse(_Config, config, "config")
        layers = () if self.layers == (EMPTY,) else self.layers
        # Before the runs are expanded: they may promise far more chunks than there are.
        if sum(count for _, count in value.chunks) != len(layers):
            raise _corrupt(f"the config does not list as many chunks as there are layers, {len(layers)}")
        indexes = (index for first, count in value.chunks for index in range(first, first + count))
        image = DiskImage(
            virtual_size_bytes=value.virtual_size,
            chunk_size_bytes=value.chunk_size,
            chunks=tuple(map(Chunk, indexes, layers)),
            cdrom=value.cdrom,
            source=ImageSource(
                value.source.format, value.source.size, dict(value.source.checksums), value.source.origin
            ),
            created=value.created,
        )
        for chunk in image.chunks:
            _check_layer(chunk, image.chunk_length(chunk.index))
        return image


def config_json(image: DiskImage) -> bytes:
    """The config blob of an image: one line, the same for the same image."""
    return _dump(
        {
            "virtualSize": image.virtual_size_bytes,
            "chunkSize": image.chunk_size_bytes,
            "chunks": runs(chunk.index for chunk in image.chunks),
            "cdrom": image.cdrom,
            "source": {
                "format": image.source.format,
                "size": image.source.size_bytes,
                "checksums": dict(sorted(image.source.checksums.items())),
                "origin": image.source.origin,
            },
            "created": image.created.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        }
    )


def runs(indexes: Iterable[int]) -> list[list[int]]:
    """Rising indexes as `[first, count]` pairs, as few as possible."""
    out: list[list[int]] = []
    for index in indexes:
        if out and index == sum(out[-1]):
            out[-1][1] += 1
        else:
            out.append([index, 1])
    return out


def _check_layer(chunk: Chunk, length_bytes: int) -> None:
    media_type, size = chunk.descriptor.media_type, chunk.descriptor.size_bytes
    if media_type == CHUNK_RAW:
        if size != length_bytes:
            raise _corrupt(f"chunk {chunk.index} has {size} bytes, not {length_bytes}")
    elif media_type == CHUNK_ZSTD:
        if not 0 < size < length_bytes:
            raise _corrupt(f"chunk {chunk.index} is compressed to {size} bytes, from {length_bytes}")
    else:
        raise _corrupt(f"chunk {chunk.index} has the unknown media type {media_type!r}")


M = TypeVar("M", bound=_Json)


def _parse(model: type[M], body: bytes, what: str) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        raise _corrupt(f"the {what} of the disk is wrong at {where[:100]}: {first['msg']}") from exc


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _corrupt(message: str) -> ImageError:
    return ImageError(message, reason="CorruptImage")
