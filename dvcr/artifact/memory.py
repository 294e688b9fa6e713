"""Memory for the chunks of all images that a process reads."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

_CHUNKS_AT_LEAST = 2


class ChunkMemory:
    """Decoded chunks of any number of readers: `size_bytes` at most, or two; what was used last stays. Thread-safe.

    Chunks on their way take as much once more at most, though one is always let in.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._held: OrderedDict[tuple[object, int], bytes] = OrderedDict()
        self._held_bytes = 0
        self._arriving_bytes = 0
        self._readers = 0
        self._changed = threading.Condition()

    def join(self) -> None:
        """There is one reader more."""
        with self._changed:
            self._readers += 1

    def leave(self, reader: object) -> None:
        """There is one reader less, and nobody needs its chunks."""
        with self._changed:
            self._readers -= 1
            for key in [key for key in self._held if key[0] is reader]:
                self._held_bytes -= len(self._held.pop(key))

    def share(self, chunk_size_bytes: int) -> int:
        """How many chunks of that size are one reader's when all read."""
        with self._changed:
            return max(_CHUNKS_AT_LEAST, self._size_bytes // max(1, self._readers) // chunk_size_bytes)

    def get(self, reader: object, index: int) -> bytes | None:
        """The chunk, which counts as used now; None if it is not here."""
        with self._changed:
            decoded = self._held.get((reader, index))
            if decoded is not None:
                self._held.move_to_end((reader, index))
            return decoded

    def has(self, reader: object, index: int) -> bool:
        """Whether the chunk is here."""
        with self._changed:
            return (reader, index) in self._held

    def keep(self, reader: object, index: int, decoded: bytes) -> None:
        """Hold a chunk that is not here, instead of those that were not used for longest."""
        with self._changed:
            self._held[reader, index] = decoded
            self._held_bytes += len(decoded)
            while self._held_bytes > self._size_bytes and len(self._held) > _CHUNKS_AT_LEAST:
                self._held_bytes -= len(self._held.popitem(last=False)[1])

    @contextmanager
    def arriving(self, length_bytes: int) -> Iterator[None]:
        """In here a chunk of that length may be fetched and decoded; waits for room."""
        # As it comes and as it is: what hardly compresses is there twice.
        needed = 2 * length_bytes
        with self._changed:
            self._changed.wait_for(
                lambda: not self._arriving_bytes or self._arriving_bytes + needed <= self._size_bytes
            )
            self._arriving_bytes += needed
        try:
            yield
        finally:
            with self._changed:
                self._arriving_bytes -= needed
                self._changed.notify_all()
