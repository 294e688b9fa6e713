"""A disk image as the registry keeps it: values only, no I/O. The format is specified in docs/artifact-format.md."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from dvcr.descriptor import Descriptor
from dvcr.errors import ImageError

MIN_CHUNK_SIZE_BYTES = 4 * 2**20
MAX_CHUNKS = 16_384
MAX_VIRTUAL_SIZE_BYTES = 2**44  # chunks of 1 GiB: what a reader must be able to hold


def chunk_size_bytes(virtual_size_bytes: int) -> int:
    """The chunk size that format version 1 prescribes: 4 MiB, doubled until at most 16,384 chunks hold the disk."""
    size = MIN_CHUNK_SIZE_BYTES
    while size * MAX_CHUNKS < virtual_size_bytes:
        size *= 2
    return size


@dataclass(frozen=True, slots=True)
class Chunk:
    """One stored piece of the disk: the bytes from `index` times the chunk size on."""

    index: int
    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where the disk came from, for people; nothing is decided by it."""

    format: str
    size_bytes: int
    checksums: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""


@dataclass(frozen=True)
class DiskImage:
    """A virtual disk as a list of chunks; chunks that are all zero are left out.

    Every instance obeys the limits of the format; making one that does not raises ImageError (`CorruptImage`, or
    `VirtualSizeTooLarge`).
    """

    virtual_size_bytes: int
    chunk_size_bytes: int
    chunks: tuple[Chunk, ...]
    cdrom: bool
    source: ImageSource
    created: datetime

    def __post_init__(self) -> None:
        if self.virtual_size_bytes <= 0:
            raise _corrupt(f"a disk has at least one byte, not {self.virtual_size_bytes}")
        if self.virtual_size_bytes > MAX_VIRTUAL_SIZE_BYTES:
            raise ImageError(
                f"a disk of {self.virtual_size_bytes} bytes is larger than the format's {MAX_VIRTUAL_SIZE_BYTES}",
                reason="VirtualSizeTooLarge",
            )
        expected = chunk_size_bytes(self.virtual_size_bytes)
        if self.chunk_size_bytes != expected:
            raise _corrupt(
                f"a disk of {self.virtual_size_bytes} bytes has chunks of {expected} bytes, not {self.chunk_size_bytes}"
            )
        if self.created.tzinfo is None:
            raise _corrupt("the time of creation has no time zone")
        self._check_indexes(chunk.index for chunk in self.chunks)

    def _check_indexes(self, indexes: Iterable[int]) -> None:
        end = self.chunk_count
        for former, index in pairwise((-1, *indexes)):
            if not former < index < end:
                raise _corrupt(f"chunk {index} after {former}: indexes must rise and be below {end}")

    @property
    def chunk_count(self) -> int:
        """Chunks of the disk, with those that are all zero."""
        return -(-self.virtual_size_bytes // self.chunk_size_bytes)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all chunks as the registry stores them: a chunk that occurs twice counts once."""
        return sum({chunk.descriptor.digest: chunk.descriptor.size_bytes for chunk in self.chunks}.values())

    def chunk_length(self, index: int) -> int:
        """Bytes of the disk in chunk `index`: the chunk size, less in the last one."""
        return min(self.chunk_size_bytes, self.virtual_size_bytes - index * self.chunk_size_bytes)


def _corrupt(message: str) -> ImageError:
    return ImageError(message, reason="CorruptImage")
