"""Whether stored blobs are still what their digests say, asked at their pulls (docs/decisions/verified-pulls.md)."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import BinaryIO

import structlog

from dvcr.digest import Digest, Hasher
from dvcr.errors import NotFoundError, StorageError
from dvcr.registry.errors import BlobCorruptError
from dvcr.registry.identity import Identity, identity
from dvcr.registry.quarantine import Quarantine
from dvcr.registry.trust import Trust, now
from dvcr.storage import paths
from dvcr.storage.driver import LocalFiles, StorageDriver

log = structlog.get_logger(__name__)

# Enough for the disks and the processors of one machine; what waits for its turn is sent meanwhile, but for its end.
_THREADS = 8
_BLOCK_BYTES = 2**20


class Verifier:
    """Hashes blobs before the end of a pull, but for those that are known to be whole.

    A file is trusted by all who share `trust`, until it changes in any way that the system can tell, and for `interval`
    at the longest. Whoever turns out to be corrupt is logged and goes to quarantine, so that the next client is told to
    push it again.
    """

    def __init__(self, storage: StorageDriver, interval: timedelta, trust: Trust) -> None:
        self._storage = storage
        self._quarantine = Quarantine(storage)
        self._interval_s = interval.total_seconds()
        self._trust = trust
        self._under_way: dict[tuple[Digest, Identity], Future[None]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_THREADS, "verify")
        self._closed = threading.Event()

    def trusts(self, digest: Digest, file: BinaryIO | None = None) -> bool:
        """Whether the blob's file, opened as `file` or else as it lies there now, was found whole lately."""
        found = self._identity(digest, file)
        seen_at = self._trust.seen_at(digest, found) if found else None
        return seen_at is not None and now() - seen_at < self._interval_s

    def trust(self, digest: Digest) -> None:
        """Remember that the blob's file holds what this process has just hashed."""
        if found := self._identity(digest):
            self._trust.grant(digest, found)

    @contextmanager
    def unchanged(self, digest: Digest) -> Iterator[None]:
        """What is done inside leaves the blob's bytes as they are: trust in its file goes on, to the same end."""
        found = self._identity(digest)
        seen_at = self._trust.seen_at(digest, found) if found else None
        yield
        if seen_at is not None and (found := self._identity(digest)):
            self._trust.grant(digest, found, seen_at)

    def check(self, digest: Digest, file: BinaryIO) -> None:
        """Hash the file from its beginning, here and now; raises BlobCorruptError."""
        self._check(digest, identity(os.fstat(file.fileno())), file.fileno())

    def begin(self, digest: Digest, file: BinaryIO) -> "Future[None]":
        """Hash the file from its beginning in another thread, once for all that ask at the same time.

        The result raises BlobCorruptError. `file` may be closed before it comes.
        """
        found = identity(os.fstat(file.fileno()))
        with self._lock:
            running = self._under_way.get((digest, found))
            if running is None:
                running = self._pool.submit(self._run, digest, found, os.dup(file.fileno()))
                self._under_way[digest, found] = running
        return running

    def refuse(self, digest: Digest, actual: Digest) -> BlobCorruptError:
        """The error for a blob whose bytes have the digest `actual`, after it was put into quarantine."""
        log.error("corrupt blob", digest=str(digest), actual=str(actual))
        try:
            self._quarantine.take_blob(digest)
        except (OSError, StorageError) as exc:
            log.error("corrupt blob stays where it is", digest=str(digest), error=str(exc))  # noqa: TRY400
        return BlobCorruptError(f"the bytes of blob {digest} are corrupt: push it again")

    def close(self) -> None:
        """End what is under way."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, digest: Digest, found: Identity, fd: int) -> None:
        try:
            self._check(digest, found, fd)
        finally:
            os.close(fd)
            with self._lock:
                del self._under_way[digest, found]

    def _check(self, digest: Digest, found: Identity, fd: int) -> None:
        hasher = Hasher(digest.algorithm)
        block = memoryview(bytearray(min(_BLOCK_BYTES, found[1] + 1)))
        offset = 0
        while (count := os.preadv(fd, [block], offset)) and not self._closed.is_set():
            hasher.update(block[:count])
            offset += count
        if self._closed.is_set():
            raise StorageError("the server ends")
        actual = hasher.digest()
        if actual != digest:
            raise self.refuse(digest, actual)
        # What changed meanwhile has another identity, and is hashed again.
        self._trust.grant(digest, found)

    def _identity(self, digest: Digest, file: BinaryIO | None = None) -> Identity | None:
        if file is not None:
            return identity(os.fstat(file.fileno()))
        if isinstance(self._storage, LocalFiles):
            with suppress(NotFoundError, FileNotFoundError):
                return identity(self._storage.local_path(paths.blob(digest)).stat())
        return None
