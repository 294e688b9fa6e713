"""Upload sessions: bytes on their way to becoming a blob."""

import threading
from collections import OrderedDict
from datetime import UTC, datetime, timedelta

from dvcr.digest import Digest, SavableHasher
from dvcr.errors import NoSpaceError, NotFoundError, StorageError
from dvcr.registry.blobs import Blobs
from dvcr.registry.errors import DigestMismatchError, QuotaError, UploadUnknownError
from dvcr.registry.quarantine import exists
from dvcr.registry.quota import Quotas
from dvcr.registry.verify import Verifier
from dvcr.storage import paths
from dvcr.storage.driver import Finite, LocalFiles, SessionBusyError, StorageDriver, UploadSession

_REMEMBERED_HASHES = 4096
_REHASH_BYTES = 4 * 2**20


class Uploads:
    """The upload sessions of every repository.

    A session's id is unguessable and is all that is needed to go on with it, on any server over the same store. Hash
    states are kept in memory between requests, and as notes with the sessions where the driver keeps notes; where one
    is missing, the bytes are hashed again at commit.
    """

    def __init__(self, storage: StorageDriver, blobs: Blobs, verifier: Verifier, quotas: Quotas) -> None:
        self.quotas = quotas
        self._storage = storage
        self._blobs = blobs
        self._verifier = verifier
        self._hashes: OrderedDict[str, tuple[SavableHasher, int]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, repository: str = "", algorithm: str = "sha256") -> "Upload":
        """A new, empty session, within the quota of `repository`; `algorithm` is the one announced for its digest."""
        upload = Upload(self, self._storage.begin_upload(), SavableHasher(algorithm), 0, repository)
        if algorithm != "sha256":
            self.remember(upload.id, SavableHasher(algorithm), 0)
        return upload

    def resume(self, upload_id: str, algorithm: str = "sha256", repository: str = "") -> "Upload":
        """The session with this id, as a restart or an earlier request left it; raises UploadUnknownError.

        `algorithm` is the one that will be asked for at commit, as far as known: another one costs reading again.
        """
        try:
            session = self._storage.resume_upload(upload_id)
            size_bytes = session.size_bytes
        except NotFoundError as exc:
            raise _gone(upload_id) from exc
        with self._lock:
            remembered = self._hashes.pop(upload_id, None)
        # A session may have gone on elsewhere since: then the note tells of more.
        known = remembered if remembered and remembered[1] == size_bytes else _noted(session.note)
        hasher, hashed_bytes = known if known and known[1] == size_bytes else (SavableHasher(algorithm), 0)
        return Upload(self, session, hasher, hashed_bytes, repository)

    def size_bytes(self, upload_id: str) -> int:
        """Bytes in the session, also while another request writes to it; raises UploadUnknownError."""
        try:
            return self._storage.resume_upload(upload_id).size_bytes
        except NotFoundError as exc:
            raise _gone(upload_id) from exc

    def commit(self, repository: str, session: UploadSession, digest: Digest) -> None:
        """Make verified bytes a blob of the repository."""
        key = paths.blob(digest)
        if self.quotas.is_limited(repository):
            stored, linked = exists(self._storage, key), exists(self._storage, paths.blob_link(repository, digest))
            if not (stored and linked):
                self.quotas.take(repository, session.size_bytes, stored=stored)
        # One that is there already keeps its bytes, which are not the ones that were hashed.
        new = isinstance(self._storage, LocalFiles) and not exists(self._storage, key)
        session.commit(key)
        if new:
            self._verifier.trust(digest)
        self._blobs.link(repository, digest)

    def require_room(self, repository: str, received_bytes: int, size_bytes: int) -> None:
        """Raise QuotaError or NoSpaceError unless a session of `received_bytes` may become longer by `size_bytes`."""
        self.quotas.require(repository, received_bytes + size_bytes)
        if isinstance(self._storage, Finite) and size_bytes > (free_bytes := self._storage.free_bytes()):
            raise NoSpaceError(
                f"no room for {size_bytes} bytes, {free_bytes} are free: free space in the storage folder"
            )

    def remember(self, upload_id: str, hasher: SavableHasher, hashed_bytes: int) -> None:
        """Keep a hash state for the session's next request."""
        with self._lock:
            self._hashes[upload_id] = hasher, hashed_bytes
            while len(self._hashes) > _REMEMBERED_HASHES:
                self._hashes.popitem(last=False)

    def expire(self, idle: timedelta, *, dry_run: bool = False) -> int:
        """Remove the sessions that were idle for longer than `idle`; gives their number."""
        moment = datetime.now(UTC) - idle
        expired = 0
        for upload_id in [upload_id for upload_id, used_at in self._storage.uploads() if used_at < moment]:
            if not dry_run:
                try:
                    self._storage.resume_upload(upload_id).abort()
                except (NotFoundError, SessionBusyError):
                    continue  # committed meanwhile, or another server removes it or goes on with it
            expired += 1
        return expired


class Upload:
    """One session in the hands of one request. Ends with `flush`, `commit` or `abort`."""

    def __init__(
        self, uploads: Uploads, session: UploadSession, hasher: SavableHasher, hashed_bytes: int, repository: str
    ) -> None:
        self._uploads = uploads
        self._session = session
        self._repository = repository
        self._received_bytes = session.size_bytes
        self._hasher = hasher
        # Equal to the size of the session exactly if the hasher has seen all of it: no byte is hashed twice, and
        # one that another process wrote is not hashed at all.
        self._hashed_bytes = hashed_bytes

    @property
    def id(self) -> str:
        """The id for `Uploads.resume`."""
        return self._session.id

    @property
    def size_bytes(self) -> int:
        """Bytes in the session; raises UploadUnknownError if it has ended meanwhile."""
        try:
            return self._session.size_bytes
        except NotFoundError as exc:
            raise _gone(self.id) from exc

    def expect(self, size_bytes: int) -> None:
        """End the session now with NoSpaceError or QuotaError if there is no room for so many bytes more.

        Others may take the room meanwhile: `append` says so then.
        """
        try:
            self._uploads.require_room(self._repository, self._received_bytes, size_bytes)
        except (NoSpaceError, QuotaError):
            self.abort()
            raise

    def hold(self) -> int:
        """Keep others from writing to the session until this object has ended; gives the bytes that are in it.

        Raises SessionBusyError if another request writes to it, UploadUnknownError if it has ended meanwhile.
        """
        self.append(b"")
        return self.size_bytes

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add `data`. A full store or quota ends the session: NoSpaceError and QuotaError leave nothing behind."""
        self._received_bytes += len(data)
        try:
            self._uploads.quotas.require(self._repository, self._received_bytes)
            self._session.append(data)
        except NotFoundError as exc:
            raise _gone(self.id) from exc
        except (NoSpaceError, QuotaError):
            self.abort()
            raise
        except StorageError:
            # Whose bytes are in the session now is not known; what was hashed may not be among them.
            self._hasher, self._hashed_bytes = SavableHasher(self._hasher.algorithm), 0
            raise
        self._hasher.update(data)
        self._hashed_bytes += len(data)

    def flush(self) -> None:
        """Keep what has arrived for a later request, on this server or after its restart."""
        state = self._hasher.save()
        self._session.flush(b"%d:%b" % (self._hashed_bytes, state) if state else b"")
        if self._hashed_bytes:
            self._uploads.remember(self.id, self._hasher, self._hashed_bytes)

    def commit(self, repository: str, digest: Digest) -> None:
        """Durably make the bytes a blob of `repository`. DigestMismatchError if they are others: the session ends.

        Raises UploadUnknownError if the session has ended meanwhile.
        """
        try:
            self.hold()  # what is hashed is then what is committed
            actual = self._digest(digest.algorithm)
            if actual == digest:
                self._uploads.commit(repository, self._session, digest)
                return
        except NotFoundError as exc:
            raise _gone(self.id) from exc
        except (NoSpaceError, QuotaError):
            self.abort()
            raise
        self.abort()
        raise DigestMismatchError(f"the {self._hashed_bytes} bytes received have the digest {actual}, not {digest}")

    def abort(self) -> None:
        """Forget the bytes and the session. Idempotent."""
        self._session.abort()

    def _digest(self, algorithm: str) -> Digest:
        if self._hasher.algorithm != algorithm or self._hashed_bytes != self._session.size_bytes:
            self._hasher, self._hashed_bytes = SavableHasher(algorithm), 0
            with self._session.open() as reader:
                while data := reader.read(_REHASH_BYTES):
                    self._hasher.update(data)
                    self._hashed_bytes += len(data)
        return self._hasher.digest()


def _noted(note: bytes) -> tuple[SavableHasher, int] | None:
    """The hash state that `Upload.flush` noted, and how many bytes it has seen; None where there is none of use."""
    count, _, state = note.partition(b":")
    hasher = SavableHasher.restore(state)
    return (hasher, int(count)) if hasher else None


def _gone(upload_id: str) -> UploadUnknownError:
    return UploadUnknownError(f"there is no upload {upload_id}; it may have been committed or ended: begin a new one")
