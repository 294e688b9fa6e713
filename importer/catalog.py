"""The disk images of a registry, as rows for people and scripts."""

from collections.abc import Iterator
from typing import Any

from dvcr.artifact.store import StoredImage, fetch
from dvcr.client.registry import RegistryClient
from dvcr.errors import ImageError, RegistryError


def images(client: RegistryClient, prefix: str = "") -> Iterator[dict[str, Any]]:
    """Every tag that names a disk image, with what `describe` tells; other artifacts are left out."""
    for name in client.repositories():
        if not name.startswith(prefix):
            continue
        repository = client.repository(name)
        for tag in repository.tags():
            try:
                yield {"tag": tag, **describe(fetch(repository, tag))}
            except ImageError:
                continue  # some other artifact
            except RegistryError as error:
                if error.status != 404:  # removed meanwhile
                    raise


def describe(stored: StoredImage) -> dict[str, Any]:
    """What there is to know of an image, in the words of its config."""
    image = stored.image
    return {
        "repository": stored.repository,
        "digest": str(stored.digest),
        "virtualSize": image.virtual_size_bytes,
        "storedBytes": image.stored_bytes,
        "chunkSize": image.chunk_size_bytes,
        "chunks": len(image.chunks),
        "cdrom": image.cdrom,
        "created": image.created.isoformat(),
        "source": {
            "format": image.source.format,
            "size": image.source.size_bytes,
            "checksums": dict(image.source.checksums),
            "origin": image.source.origin,
        },
    }
