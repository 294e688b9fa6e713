"""Chunks on their way to becoming an image: pushed, but not yet referred to by any manifest."""

import threading
from concurrent.futures import ThreadPoolExecutor

from dvcr.client.held import HOLD_EVERY_S, HeldBlobs
from dvcr.client.repository import Repository
from dvcr.descriptor import Descriptor
from dvcr.digest import Digest

_PARALLEL_PUSHES = 4
_PENDING_BYTES = 16 * 2**20
_MISSES = 8


class StagedChunks:
    """The converter's ChunkStore over a repository. What an import that failed has put is left to garbage collection.

    Pushing waits for the registry's disk, encoding for the processor: `put` only hands over, to a few threads that push
    at the same time, and `drain` waits for them. At most 16 MiB are on their way; a blob that is larger than that is
    pushed by the thread that puts it, which then holds nothing else.

    The registry is asked for each chunk whether it has it already, in any repository. Where it had none of eight in a
    row, it is asked only for every eighth until it has one again, and the others are sent at once: that halves the
    requests of an image that is new.

    Chunks are kept from garbage collection until `close`, however long the import takes.
    """

    def __init__(self, repository: Repository, hold_every_s: float = HOLD_EVERY_S) -> None:
        self._repository = repository
        self._held = HeldBlobs(repository, hold_every_s)
        self._put: set[Digest] = set()
        self._sent_bytes = 0
        self._pending_bytes = 0
        self._misses = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(_PARALLEL_PUSHES, "push")

    @property
    def sent_bytes(self) -> int:
        """Bytes that the registry did not have yet."""
        return self._sent_bytes

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        """Have the chunk pushed. Called from several threads; raises what an earlier push failed with."""
        with self._changed:
            large = len(data) > _PENDING_BYTES
            self._changed.wait_for(lambda: self._error or large or self._pending_bytes + len(data) <= _PENDING_BYTES)
            self._raise_error()
            if descriptor.digest in self._put:
                return
            self._put.add(descriptor.digest)
            self._pending_bytes += len(data)
        if large:
            self._push(descriptor.digest, data)
            self._raise_error()
        else:
            self._pool.submit(self._push, descriptor.digest, data)

    def hold(self, digest: Digest) -> None:
        """Keep a chunk that is in the repository without having been put."""
        self._held.add(digest)

    def drain(self) -> None:
        """Wait until every chunk is in the repository; raises what a push failed with."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending_bytes)
            self._raise_error()

    def close(self) -> None:
        """End the threads. Idempotent."""
        self._pool.shutdown()
        self._held.close()

    def _push(self, digest: Digest, data: bytes) -> None:
        sent, error = False, None
        with self._changed:
            self._misses += 1
            ask = self._misses <= _MISSES or self._misses % _MISSES == 0
        try:
            if self._error is None:
                sent = self._repository.push_blob(digest, data, mount=ask)
                self.hold(digest)
        except BaseException as exc:  # noqa: BLE001 (raised by the next `put`, or by `drain`)
            error = exc
        with self._changed:
            self._pending_bytes -= len(data)
            self._sent_bytes += len(data) if sent else 0
            self._misses = self._misses if sent or error else 0
            self._error = self._error or error
            self._changed.notify_all()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
