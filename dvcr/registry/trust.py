"""Which files are known to be whole: a table that the workers of one machine share."""

import hashlib
import mmap
import struct
import time

from dvcr.digest import Digest
from dvcr.registry.identity import Identity

_SLOTS = 2**16
_SEEN = struct.Struct("<d")
_SEAL_BYTES = 24
_SLOT_BYTES = _SEEN.size + _SEAL_BYTES
SIZE_BYTES = _SLOTS * _SLOT_BYTES


class Trust:
    """Blobs whose bytes were hashed and found right, and when. Gone with the last process that has it.

    It lies in memory that forked processes share: what one of them writes, all see. There is no lock. Each slot holds a
    time and the seal of everything that it says, blob, file and time; half of one writing and half of another, and what
    another blob with the same slot overwrote, is a broken seal, which means no more than that the blob is hashed again.
    """

    def __init__(self, memory: mmap.mmap | bytearray | None = None) -> None:
        """In pages of its own, unless `memory` of SIZE_BYTES zeros, or of an earlier table, is given."""
        self._memory = mmap.mmap(-1, SIZE_BYTES) if memory is None else memory

    def grant(self, digest: Digest, file: Identity, seen_at: float | None = None) -> None:
        """The file was found to hold the blob, now or at `seen_at`."""
        seen = _SEEN.pack(now() if seen_at is None else seen_at)
        offset = _offset(digest)
        self._memory[offset : offset + _SLOT_BYTES] = seen + _seal(digest, file, seen)

    def seen_at(self, digest: Digest, file: Identity) -> float | None:
        """When the file was found to hold the blob, as `now` told it; None if that is not known (any more)."""
        offset = _offset(digest)
        slot = bytes(self._memory[offset : offset + _SLOT_BYTES])
        seen, seal = slot[: _SEEN.size], slot[_SEEN.size :]
        return float(_SEEN.unpack(seen)[0]) if seal == _seal(digest, file, seen) else None


def now() -> float:
    """Seconds on a clock that all processes of the machine share."""
    return time.monotonic()


def _offset(digest: Digest) -> int:
    return int(digest.hex[:8], 16) % _SLOTS * _SLOT_BYTES


def _seal(digest: Digest, file: Identity, seen: bytes) -> bytes:
    return hashlib.blake2b(f"{digest} {file}".encode() + seen, digest_size=_SEAL_BYTES).digest()
