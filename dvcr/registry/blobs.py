"""Blobs: bytes once in the store, a link in every repository that has them."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from dvcr.digest import Digest
from dvcr.errors import NotFoundError
from dvcr.registry.catalog import Catalog, mark
from dvcr.registry.errors import BlobUnknownError
from dvcr.registry.quarantine import exists
from dvcr.registry.quota import Quotas
from dvcr.registry.recall import Recall
from dvcr.registry.trust import now
from dvcr.registry.verify import Verifier
from dvcr.storage import paths
from dvcr.storage.driver import LocalFiles, Redirects, StorageDriver

_AT_ONCE = 16


class Blobs:
    """The blobs of every repository.

    Whatever makes a client rely on a blob (`link`, `mount`, `confirm`) makes link and blob fresh in an order that
    garbage collection respects: see docs/storage-format.md.
    """

    def __init__(
        self, storage: StorageDriver, catalog: Catalog, verifier: Verifier, quotas: Quotas, fresh_s: float = 0
    ) -> None:
        """`fresh_s`: a blob that was made fresh so lately is fresh enough; what the grace of collection can spare."""
        self._storage = storage
        self._catalog = catalog
        self._verifier = verifier
        self._quotas = quotas
        self._confirmed: Recall[tuple[str, Digest], int] = Recall(storage, fresh_s)

    def recall(self, repository: str, digest: Digest) -> int | None:
        """What `confirm` said a moment ago, if it would say it again; None to ask it. Does not block."""
        return self._confirmed.get((repository, digest))

    def confirm(self, repository: str, digest: Digest) -> int:
        """The blob's size, after making link and blob fresh; raises BlobUnknownError if either is missing."""
        link, blob = paths.blob_link(repository, digest), paths.blob(digest)
        begin = now()
        try:
            self._storage.touch(link)
            self._touch(digest)
            size_bytes = self._storage.stat(blob).size_bytes
        except NotFoundError as exc:
            raise _unknown(repository, digest) from exc
        self._confirmed.put((repository, digest), size_bytes, self._confirmed.look(link, blob), begin)
        return size_bytes

    def absent(self, repository: str, digests: Iterable[Digest]) -> list[Digest]:
        """Those that the repository does not have; the others become fresh, as by `confirm`."""

        def is_absent(digest: Digest) -> bool:
            try:
                self.confirm(repository, digest)
            except BlobUnknownError:
                return True
            return False

        wanted = list(digests)
        if self.are_files or len(wanted) < _AT_ONCE:
            return [digest for digest in wanted if is_absent(digest)]
        # Each takes several requests to the bucket, and an image has thousands of chunks.
        with ThreadPoolExecutor(_AT_ONCE, "confirm") as pool:
            return [digest for digest, absent in zip(wanted, pool.map(is_absent, wanted), strict=True) if absent]

    def size_bytes(self, repository: str, digest: Digest) -> int:
        """The blob's size, for a reader; raises BlobUnknownError."""
        try:
            self._storage.stat(paths.blob_link(repository, digest))
        except NotFoundError as exc:
            raise _unknown(repository, digest) from exc
        try:
            return self._storage.stat(paths.blob(digest)).size_bytes
        except NotFoundError as exc:
            raise _lost(digest) from exc

    def open(self, digest: Digest, offset_bytes: int = 0) -> BinaryIO:
        """A reader of the blob, whose presence in a repository the caller has checked; raises BlobUnknownError."""
        try:
            return self._storage.open(paths.blob(digest), offset_bytes)
        except NotFoundError as exc:
            raise _lost(digest) from exc

    def url(self, digest: Digest) -> str | None:
        """Where else a client gets the blob, whose presence in a repository the caller has checked.

        Raises BlobUnknownError.
        """
        try:
            return self._storage.url(paths.blob(digest)) if isinstance(self._storage, Redirects) else None
        except NotFoundError as exc:
            raise _lost(digest) from exc

    @property
    def are_files(self) -> bool:
        """Whether `open` gives files that a server may `sendfile`."""
        return isinstance(self._storage, LocalFiles)

    def mount(self, repository: str, digest: Digest, sources: Iterable[str] | None = None) -> bool:
        """Give the repository a blob that exists already, in one of `sources` or, without them, anywhere in the store.

        False if it is not there: the client has to upload it. Raises QuotaError.
        """
        if sources is not None and not any(self._refresh(paths.blob_link(source, digest)) for source in sources):
            return False
        try:
            self._touch(digest)
        except NotFoundError:
            return False
        if self._quotas.is_limited(repository) and not exists(self._storage, paths.blob_link(repository, digest)):
            self._quotas.take(repository, self._storage.stat(paths.blob(digest)).size_bytes, stored=True)
        self.link(repository, digest)
        return True

    def _refresh(self, key: str) -> bool:
        try:
            self._storage.touch(key)
        except NotFoundError:
            return False
        return True

    def _touch(self, digest: Digest) -> None:
        """Make the blob fresh. Its bytes stay as they are, and so does the trust in them."""
        with self._verifier.unchanged(digest):
            self._storage.touch(paths.blob(digest))

    def link(self, repository: str, digest: Digest) -> None:
        """Give the repository a blob that the caller has just made fresh. Idempotent."""
        self._catalog.enter(repository)
        mark(self._storage, paths.blob_link(repository, digest))

    def delete(self, repository: str, digest: Digest) -> None:
        """Take the blob from the repository; its bytes go by garbage collection. BlobUnknownError if it has none."""
        key = paths.blob_link(repository, digest)
        try:
            self._storage.stat(key)
        except NotFoundError as exc:
            raise _unknown(repository, digest) from exc
        self._storage.delete(key)


def _unknown(repository: str, digest: Digest) -> BlobUnknownError:
    return BlobUnknownError(f"repository {repository} has no blob {digest}")


def _lost(digest: Digest) -> BlobUnknownError:
    return BlobUnknownError(f"the bytes of blob {digest} were corrupt, lost or collected: push it again")
