"""How much repositories may hold."""

import threading
import time
from collections.abc import Callable, Mapping

from dvcr.digest import Digest
from dvcr.errors import NotFoundError
from dvcr.registry.catalog import Catalog
from dvcr.registry.errors import QuotaError
from dvcr.storage import paths
from dvcr.storage.driver import StorageDriver

# What other servers add is seen after this time at the latest, what was freed after the shorter one.
COUNT_INTERVAL_S = 300.0
RECOUNT_INTERVAL_S = 10.0


class Quotas:
    """Limits by prefix of the repositories' names; the empty prefix is the whole store.

    A prefix holds each blob once that one of its repositories links, whoever else has it. The store holds what is in
    it, garbage included until it is collected. All is counted at the first push and every few minutes; in between, what
    this server takes is added. So several servers may together exceed a limit by what they take in between.
    Blocking, thread-safe.
    """

    def __init__(
        self,
        storage: StorageDriver,
        catalog: Catalog,
        limits: Mapping[str, int],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._limits = dict(limits)
        self._now = now
        self._sizes: dict[Digest, int] = {}  # a blob's size never changes: each is asked for once
        self._used = dict.fromkeys(self._limits, 0)
        self._counted_at = float("-inf")
        self._counting = threading.Lock()
        self._taking = threading.Lock()

    def require(self, repository: str, size_bytes: int, *, stored: bool = False) -> None:
        """Raise QuotaError unless the repository may take so many bytes more; `stored`: the store has them already."""
        limits = [p for p in self._limits if repository.startswith(p) and (p or not stored)] if self._limits else []
        if not limits:
            return
        self._count(COUNT_INTERVAL_S)
        if any(self._exceeds(prefix, size_bytes) for prefix in limits):
            self._count(RECOUNT_INTERVAL_S)
        for prefix in limits:
            if self._exceeds(prefix, size_bytes):
                where = f"repositories {prefix}*" if prefix else "the registry"
                raise QuotaError(
                    f"{size_bytes} bytes more are too many: {where} may hold {self._limits[prefix]} bytes and "
                    f"{self._used[prefix]} are used; delete images that are no longer needed"
                )

    def take(self, repository: str, size_bytes: int, *, stored: bool) -> None:
        """As `require`, and count the bytes as taken."""
        with self._taking:
            self.require(repository, size_bytes, stored=stored)
            for prefix in self._limits:
                if repository.startswith(prefix) and (prefix or not stored):
                    self._used[prefix] += size_bytes

    def is_limited(self, repository: str) -> bool:
        """Whether there is anything to count for the repository."""
        return any(repository.startswith(prefix) for prefix in self._limits)

    def _exceeds(self, prefix: str, size_bytes: int) -> bool:
        return self._used[prefix] + size_bytes > self._limits[prefix]

    def _count(self, interval_s: float) -> None:
        """Count, if the last count is older than `interval_s`. Whoever comes meanwhile goes by the last one."""
        if self._now() - self._counted_at < interval_s:
            return
        if not self._counting.acquire(blocking=self._counted_at == float("-inf")):
            return
        try:
            if self._now() - self._counted_at >= interval_s:
                self._used = {prefix: sum(map(self._size, self._digests(prefix))) for prefix in self._limits}
                self._counted_at = self._now()
        finally:
            self._counting.release()

    def _digests(self, prefix: str) -> set[Digest]:
        if not prefix:
            digests = set(map(paths.blob_digest, self._storage.list(paths.BLOBS)))
            self._sizes = {digest: size for digest, size in self._sizes.items() if digest in digests}
            return digests
        names = [name for name in self._catalog.all() if name.startswith(prefix)]
        return {paths.last_digest(key) for name in names for key in self._storage.list(paths.blob_links(name))}

    def _size(self, digest: Digest) -> int:
        if digest not in self._sizes:
            try:
                self._sizes[digest] = self._storage.stat(paths.blob(digest)).size_bytes
            except NotFoundError:
                return 0
        return self._sizes[digest]
