"""Quarantine: where bytes go that are not what their digest says, so that nobody is ever served them."""

from collections.abc import Callable, Iterator
from datetime import timedelta

from dvcr.digest import Digest, Hasher
from dvcr.errors import NotFoundError, StorageError
from dvcr.storage import paths
from dvcr.storage.driver import StorageDriver

READ_BYTES = 4 * 2**20
_ATTEMPTS = 5


def hash_blob(
    storage: StorageDriver,
    key: str,
    algorithm: str,
    *,
    on_bytes: Callable[[int], None] = lambda _count: None,
    copy: Callable[[bytes], None] = lambda _data: None,
) -> Digest:
    """The digest of a value, read in pieces; each goes to `copy`, its length to `on_bytes`. Raises NotFoundError."""
    hasher = Hasher(algorithm)
    with storage.open(key) as reader:
        while data := reader.read(READ_BYTES):
            hasher.update(data)
            copy(data)
            on_bytes(len(data))
    return hasher.digest()


class Quarantine:
    """Corrupt blobs and manifests, under keys of their own. Whatever is pushed again takes its place as if it were new.

    What is moved here is looked at once more on the way, and only the value that was looked at is removed: what a push
    put there meanwhile stays.
    """

    def __init__(self, storage: StorageDriver) -> None:
        self._storage = storage

    def take_blob(self, digest: Digest) -> bool:
        """Move a blob here that proves corrupt again, and tell whether it did.

        Raises NoSpaceError if there is no room for the copy: the blob stays where it is.
        """
        key = paths.blob(digest)

        def copy_if_corrupt() -> bool:
            session = self._storage.begin_upload()
            try:
                if hash_blob(self._storage, key, digest.algorithm, copy=session.append) == digest:
                    return False
                session.commit(paths.quarantined_blob(digest))
            finally:
                session.abort()
            return True

        return self._take(key, copy_if_corrupt)

    def take_manifest(self, repository: str, digest: Digest) -> bool:
        """Move a manifest here that proves corrupt again, and tell whether it did."""
        key = paths.manifest(repository, digest)

        def copy_if_corrupt() -> bool:
            value = self._storage.read(key)
            if is_whole_manifest(value, digest):
                return False
            self._storage.write(paths.quarantined_manifest(repository, digest), value)
            return True

        return self._take(key, copy_if_corrupt)

    def has_manifest(self, repository: str, digest: Digest) -> bool:
        """Whether the manifest is here and was not pushed again."""
        return exists(self._storage, paths.quarantined_manifest(repository, digest)) and not exists(
            self._storage, paths.manifest(repository, digest)
        )

    def manifests(self, repository: str) -> Iterator[Digest]:
        """The manifests of a repository that are here and were not pushed again."""
        for key in self._storage.list(paths.quarantined_manifests(repository)):
            digest = paths.last_digest(key)
            if not exists(self._storage, paths.manifest(repository, digest)):
                yield digest

    def release_healed(self, repositories: list[str]) -> None:
        """Forget what was pushed again meanwhile."""
        for key in list(self._storage.list(paths.QUARANTINE)):
            if exists(self._storage, paths.blob(paths.blob_digest(key))):
                self._storage.delete(key)
        for repository in repositories:
            for key in list(self._storage.list(paths.quarantined_manifests(repository))):
                if exists(self._storage, paths.manifest(repository, paths.last_digest(key))):
                    self._storage.delete(key)

    def _take(self, key: str, copy_if_corrupt: Callable[[], bool]) -> bool:
        for _ in range(_ATTEMPTS):
            try:
                # One moment later than what was looked at: deletion asks for "before".
                moment = self._storage.stat(key).modified_at + timedelta(milliseconds=1)
                if not copy_if_corrupt():
                    return False
            except NotFoundError:
                return False
            if self._storage.delete_unmodified_since(key, moment):
                return True
        raise StorageError(f"{key} is corrupt, and in use all the time; scrub again", retryable=True)


def is_whole_manifest(value: bytes, digest: Digest) -> bool:
    """Whether the value under the key of a manifest is a media type and the body with this digest."""
    media_type, _, body = value.partition(b"\n")
    return media_type.isascii() and Digest.of(body, digest.algorithm) == digest


def exists(storage: StorageDriver, key: str) -> bool:
    """Whether the key has a value."""
    try:
        storage.stat(key)
    except NotFoundError:
        return False
    return True
