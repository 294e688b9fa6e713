"""A file on its way to becoming an image: parts in a repository, in order, and a manifest that lists them.

The parts of an unfinished upload are blobs that nothing refers to yet; the registry keeps those while the repository is
being pushed to. The manifest, tagged `upload`, keeps them until the import is done.
"""

import json
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from dvcr.artifact.manifest import EMPTY
from dvcr.artifact.store import remove
from dvcr.client.repository import Repository
from dvcr.descriptor import IMAGE_MANIFEST, OCTET_STREAM, Descriptor
from dvcr.digest import Digest
from dvcr.errors import ImageError, RegistryError

ARTIFACT_TYPE = "application/vnd.dvcr.upload.v1"
TAG = "upload"
"""There is at most one upload for a repository: it belongs to one resource."""

_PART_BYTES = 64 * 2**20
_PARTS_IN_PROPORTION = 1024


def _digest(value: object) -> Digest:
    return value if isinstance(value, Digest) else Digest.parse(str(value))


class Part(BaseModel):
    """A piece of the file, as a blob."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: Annotated[Digest, PlainValidator(_digest), PlainSerializer(str)]
    size_bytes: int = Field(gt=0)


def part_bytes(offset_bytes: int) -> int:
    """Size of the part that begins there: 64 MiB, more in files over 64 GiB, so that 2 TiB have under 5000 parts."""
    return max(_PART_BYTES, offset_bytes // _PARTS_IN_PROPORTION)


def seal(repository: Repository, parts: Iterable[Part]) -> Digest:
    """Put up the manifest of a whole file, in place of an earlier one; its digest. Idempotent."""
    earlier = _sealed(repository)
    repository.push_blob(EMPTY.digest, b"{}")
    value = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": EMPTY.to_json(),
        "layers": [Descriptor(OCTET_STREAM, part.digest, part.size_bytes).to_json() for part in parts],
    }
    digest = repository.put_manifest(TAG, json.dumps(value, separators=(",", ":")).encode(), IMAGE_MANIFEST)
    if earlier is not None and earlier != digest:
        remove(repository, earlier)
    return digest


def find(repository: Repository) -> tuple[Digest, tuple[Part, ...]] | None:
    """The manifest and the parts of the sealed upload; None if there is none. Raises as `read_parts`."""
    digest = _sealed(repository)
    return None if digest is None else (digest, read_parts(repository, digest))


def read_parts(repository: Repository, digest: Digest) -> tuple[Part, ...]:
    """What `seal` put up; RegistryError 404 if it is gone, ImageError if it is something else."""
    try:
        value = json.loads(repository.manifest(digest).body)
        if value["artifactType"] != ARTIFACT_TYPE:
            raise ImageError(f"{repository.name}@{digest} is no upload", reason="UnknownFormat")
        layers = [Descriptor.from_json(layer) for layer in value["layers"]]
        return tuple(Part(digest=layer.digest, size_bytes=layer.size_bytes) for layer in layers)
    except (ValueError, LookupError, TypeError) as exc:
        raise ImageError(f"{repository.name}@{digest} is no upload: {exc}", reason="CorruptImage") from exc


def discard(repository: Repository, parts: Iterable[Part] = ()) -> None:
    """Remove a sealed upload, if there is one, but for what an image needs of it, and these parts. Idempotent.

    Raises RegistryError; what stays behind then is referred to by nothing, or by the tag that the next call removes.
    """
    sealed = _sealed(repository)
    if sealed is not None:
        remove(repository, sealed)
    for digest in {part.digest for part in parts}:
        repository.delete_blob(digest)


def _sealed(repository: Repository) -> Digest | None:
    try:
        return repository.manifest(TAG).digest
    except RegistryError as error:
        if error.status != 404:
            raise
        return None
