"""A large chunk while it is put together and encoded: what it takes is never more than itself."""

from collections.abc import Iterator
from mmap import mmap

from blake3 import blake3

from dvcr.artifact.chunk import PART_BYTES, EncodedChunk, encode_parts, is_zero

_ZEROES = bytes(PART_BYTES)


class ChunkParts:
    """The bytes of a chunk in parts of 4 MiB; one that was never written to is zero, and takes no room.

    For one thread at a time. `encode` lets go of each part once it is compressed, so it can be called once.
    """

    def __init__(self, length_bytes: int) -> None:
        self._length_bytes = length_bytes
        # Mappings, since what is freed otherwise need not go back to the system.
        self._parts: list[mmap | None] = [None] * -(-length_bytes // PART_BYTES)

    def write(self, at: int, piece: memoryview) -> None:
        """Put the bytes there."""
        while piece:
            number, within = divmod(at, PART_BYTES)
            rest = piece[: PART_BYTES - within]
            part = self._parts[number]
            if part is None:
                part = self._parts[number] = mmap(-1, PART_BYTES)
            part[within : within + len(rest)] = rest
            at, piece = at + len(rest), piece[len(rest) :]

    def clear(self, at: int, end: int) -> None:
        """Make a range zero."""
        for number in range(at // PART_BYTES, -(-end // PART_BYTES)):
            part, start = self._parts[number], number * PART_BYTES
            first, last = max(at - start, 0), min(end - start, PART_BYTES)
            if part is not None:
                part[first:last] = bytes(last - first)

    def cut(self, length_bytes: int) -> None:
        """The chunk is shorter: it is the last one of its disk."""
        self._length_bytes = length_bytes
        del self._parts[-(-length_bytes // PART_BYTES) :]

    def is_zero(self) -> bool:
        """Whether every byte is zero."""
        return all(part is None or is_zero(memoryview(part)) for part in self._parts)

    def fingerprint(self) -> bytes:
        """The BLAKE3 hash of the bytes."""
        digest = blake3()
        for number in range(len(self._parts)):
            digest.update(self._view(number))
        return digest.digest()

    def encode(self) -> EncodedChunk:
        """The blob for a chunk that is not all zero. Nothing is left of its bytes."""
        return encode_parts(self._length_bytes, self._taken())

    def _taken(self) -> Iterator[memoryview]:
        for number in range(len(self._parts)):
            view = self._view(number)
            self._parts[number] = None
            yield view

    def _view(self, number: int) -> memoryview:
        return memoryview(self._parts[number] or _ZEROES)[: self._length_bytes - number * PART_BYTES]
