"""Small disks and their artifacts, for tests."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime

from dvcr.artifact.chunk import encode_chunk
from dvcr.artifact.image import Chunk, DiskImage, ImageSource, chunk_size_bytes
from dvcr.client.repository import Repository
from dvcr.descriptor import Descriptor
from dvcr.digest import Digest

CHUNK = 4 * 2**20
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SOURCE = ImageSource("qcow2", 1000, {"sha256": "0" * 64}, "https://example.com/disk.qcow2")


def noise(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size_bytes)


def text(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes that compress well, the same for the same seed."""
    return (noise(1000, seed).hex().encode() * (size_bytes // 2000 + 1))[:size_bytes]


def image_of(disk: bytes) -> tuple[DiskImage, dict[Digest, bytes]]:
    """The artifact of a disk, and its blobs."""
    chunks: list[Chunk] = []
    blobs: dict[Digest, bytes] = {}
    size = chunk_size_bytes(len(disk))
    for index, start in enumerate(range(0, len(disk), size)):
        encoded = encode_chunk(disk[start : start + size])
        if encoded is not None:
            chunks.append(Chunk(index, encoded.descriptor))
            blobs[encoded.descriptor.digest] = encoded.data
    return DiskImage(len(disk), size, tuple(chunks), False, SOURCE, CREATED), blobs


def image_with(descriptors: Mapping[int, Descriptor], virtual_size_bytes: int) -> DiskImage:
    """An image of chunks that need not exist."""
    chunks = tuple(Chunk(index, descriptor) for index, descriptor in sorted(descriptors.items()))
    return DiskImage(virtual_size_bytes, chunk_size_bytes(virtual_size_bytes), chunks, False, SOURCE, CREATED)


def push(repository: Repository, disk: bytes) -> DiskImage:
    """Push the chunks of a disk; the image is not published yet."""
    image, blobs = image_of(disk)
    for digest, data in blobs.items():
        repository.push_blob(digest, data)
    return image
