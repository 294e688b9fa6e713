"""Disk images in a repository of a registry."""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dvcr.artifact.image import DiskImage
from dvcr.artifact.manifest import EMPTY, DiskManifest, config_json
from dvcr.client.repository import Repository
from dvcr.descriptor import IMAGE_MANIFEST
from dvcr.digest import Digest
from dvcr.errors import ImageError, RegistryError

_PARALLEL_DELETES = 8


@dataclass(frozen=True)
class StoredImage:
    """An image, and where it is."""

    image: DiskImage
    digest: Digest
    """Of the manifest."""
    repository: str


def publish(repository: Repository, image: DiskImage, tags: Iterable[str]) -> Digest:
    """Make the image, whose chunks are in `repository`, visible under `tags`, set in that order; its manifest's digest.

    Idempotent. Before the first tag is set nobody sees anything. A retryable RegistryError MANIFEST_BLOB_UNKNOWN means
    that chunks went away meanwhile, with the removal of an image that shared them: push them again.
    """
    config = config_json(image)
    manifest = DiskManifest.of(image, config)
    repository.push_blob(manifest.config.digest, config)
    if manifest.layers == (EMPTY,):
        repository.push_blob(EMPTY.digest, b"{}")
    body = manifest.to_json()
    digest = Digest.of(body)
    try:
        for tag in tags:
            repository.put_manifest(tag, body, IMAGE_MANIFEST)
    except RegistryError as error:
        if error.code != "MANIFEST_BLOB_UNKNOWN":
            raise
        raise RegistryError(error.message, code=error.code, status=error.status, retryable=True) from error
    return digest


def fetch(repository: Repository, reference: str | Digest) -> StoredImage:
    """The image under a tag or digest.

    Raises RegistryError 404 if there is none, ImageError if what is there is no disk, or one that breaks the format,
    and IntegrityError if its bytes are not what their digests say.
    """
    stored = repository.manifest(reference)
    manifest = DiskManifest.parse(stored.body)
    try:
        config = repository.read_blob(manifest.config.digest, 0, manifest.config.size_bytes)
    except RegistryError as error:
        if error.status != 404:
            raise
        raise ImageError(f"the config of {repository.name}:{reference} is missing", reason="CorruptImage") from error
    manifest.config.digest.verify(config)
    return StoredImage(manifest.image(config), stored.digest, repository.name)


def remove(repository: Repository, digest: Digest) -> None:
    """Delete the manifest `digest` and its tags, then the blobs that no tagged manifest of the repository needs.

    Idempotent. Interrupted after the manifest is gone, it leaves the blobs to the registry's garbage collection.
    """
    try:
        blobs, _ = _references(repository.manifest(digest).body)
    except RegistryError as error:
        if error.status != 404:
            raise
        return
    repository.delete_manifest(digest)
    # Looked at as late as possible: an image published a moment ago keeps its chunks.
    with ThreadPoolExecutor(_PARALLEL_DELETES, "remove-blob") as pool:
        for _ in pool.map(repository.delete_blob, blobs - _needed(repository)):
            pass  # raises what a deletion raised


def _needed(repository: Repository) -> set[Digest]:
    blobs: set[Digest] = set()
    seen: set[Digest] = set()
    waiting: list[str | Digest] = list(repository.tags())
    while waiting:
        try:
            manifest = repository.manifest(waiting.pop())
        except RegistryError as error:
            if error.status != 404:  # removed meanwhile, or a child that an index only mentions
                raise
            continue
        if manifest.digest not in seen:
            seen.add(manifest.digest)
            own, children = _references(manifest.body)
            blobs |= own
            waiting += children
    return blobs


def _references(body: bytes) -> tuple[set[Digest], set[Digest]]:
    """Blobs and manifests that a manifest of any kind refers to."""
    try:
        value = json.loads(body)
        blobs = {*_digests([value["config"]] if "config" in value else []), *_digests(value.get("layers") or [])}
        return blobs, {*_digests(value.get("manifests") or [])}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise ImageError(f"a manifest of the repository cannot be read: {exc}", reason="CorruptImage") from exc


def _digests(descriptors: list[Any]) -> Iterator[Digest]:
    return (Digest.parse(descriptor["digest"]) for descriptor in descriptors)
