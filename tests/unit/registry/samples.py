"""Small images for tests of the domain."""

import json
from typing import Any

from dvcr.descriptor import IMAGE_CONFIG, IMAGE_MANIFEST, Descriptor
from dvcr.digest import Digest
from dvcr.registry.registry import Registry

LAYER = "application/vnd.oci.image.layer.v1.tar"


def push_blob(registry: Registry, repository: str, data: bytes, algorithm: str = "sha256") -> Digest:
    digest = Digest.of(data, algorithm)
    upload = registry.uploads.begin()
    upload.append(data)
    upload.commit(repository, digest)
    return digest


def manifest(config: bytes, *layers: bytes, **fields: Any) -> bytes:
    value = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": Descriptor(IMAGE_CONFIG, Digest.of(config), len(config)).to_json(),
        "layers": [Descriptor(LAYER, Digest.of(layer), len(layer)).to_json() for layer in layers],
    }
    return json.dumps(value | fields).encode()


def push_image(registry: Registry, repository: str, tag: str, *layers: bytes, **fields: Any) -> Digest:
    for blob in (b"{}", *layers):
        push_blob(registry, repository, blob)
    body = manifest(b"{}", *layers, **fields)
    return registry.manifests.put(repository, body, IMAGE_MANIFEST, tags=[tag]).digest
