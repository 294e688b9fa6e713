"""Container images for tests, made layer by layer."""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

import zstandard

from dvcr.client.repository import Repository
from dvcr.descriptor import IMAGE_CONFIG, IMAGE_INDEX, IMAGE_MANIFEST, Descriptor
from dvcr.digest import Digest

TAR = "application/vnd.oci.image.layer.v1.tar"
Layer = tuple[str, bytes]
"""Media type and bytes."""
IndexEntry = tuple[str, Digest, Mapping[str, str]]
"""Platform (`linux/amd64`; an empty one is left out), image and annotations."""


def tar(*members: tuple[str, bytes | tarfile.TarInfo | None]) -> bytes:
    """An archive of files; None makes a folder, a TarInfo is put in as it is."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                if content is None:
                    info.type = tarfile.DIRTYPE
                archive.addfile(info)
    return out.getvalue()


def plain(data: bytes) -> Layer:
    return TAR, data


def gzipped(data: bytes) -> Layer:
    """Two members, as tools that pack in parallel or for lazy pulling write them."""
    half = len(data) // 2
    return f"{TAR}+gzip", gzip.compress(data[:half], 1) + gzip.compress(data[half:], 1)


def zstandard_(data: bytes) -> Layer:
    """Two frames."""
    half = len(data) // 2
    return f"{TAR}+zstd", zstandard.compress(data[:half]) + zstandard.compress(data[half:])


def push_image(repository: Repository, layers: Sequence[Layer], tag: str = "latest", **fields: Any) -> Digest:
    """An image of these layers, the lowest first; its manifest's digest. `fields` are added to the manifest."""
    descriptors = []
    for media_type, data in layers:
        digest = Digest.of(data)
        repository.push_blob(digest, data)
        descriptors.append(Descriptor(media_type, digest, len(data)))
    config = json.dumps({"rootfs": {"type": "layers"}}).encode()
    repository.push_blob(Digest.of(config), config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": Descriptor(IMAGE_CONFIG, Digest.of(config), len(config)).to_json(),
        "layers": [descriptor.to_json() for descriptor in descriptors],
        **fields,
    }
    return repository.put_manifest(tag, json.dumps(manifest).encode(), IMAGE_MANIFEST)


def push_index(repository: Repository, *entries: IndexEntry, tag: str = "latest") -> Digest:
    """An index of images."""
    manifests = []
    for platform, digest, annotations in entries:
        parts = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False)) if platform else None
        body = repository.manifest(digest).body
        entry: dict[str, Any] = Descriptor(IMAGE_MANIFEST, digest, len(body)).to_json()
        manifests.append(
            entry | ({"platform": parts} if parts else {}) | ({"annotations": {**annotations}} if annotations else {})
        )
    body = json.dumps({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": manifests}).encode()
    return repository.put_manifest(tag, body, IMAGE_INDEX)
