"""A ByteSource over a blob of the registry: what a user uploaded."""

import threading
from collections.abc import Mapping

from dvcr.client.repository import Repository
from dvcr.digest import Digest
from dvcr.errors import RegistryError, SourceError
from dvcr.jobs.job import BlobOrigin
from importer.checksums import Checksums


class BlobSource:
    """The bytes of an uploaded blob, read by range; nothing is kept on disk."""

    def __init__(self, repository: Repository, origin: BlobOrigin, checksums: Mapping[str, str]) -> None:
        self._repository = repository
        self._digest = Digest.parse(origin.digest)
        self._size_bytes = origin.size_bytes
        self._checksums = Checksums(checksums)
        self._aborted = threading.Event()
        self._furthest = 0

    @property
    def fetched_bytes(self) -> int:
        """The end of the furthest range read so far."""
        return self._furthest

    @property
    def total_bytes(self) -> int | None:
        """The length of the blob."""
        return self._size_bytes

    def size_bytes(self) -> int:
        """The length of the blob."""
        return self._size_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """That range of the blob."""
        self._check_running()
        length_bytes = max(0, min(length_bytes, self._size_bytes - offset_bytes))
        try:
            data = self._repository.read_blob(self._digest, offset_bytes, length_bytes)
        except RegistryError as exc:
            raise self._failed(exc) from exc
        if len(data) != length_bytes:
            raise SourceError(
                f"the upload {self._digest} ends after {offset_bytes + len(data)} of {self._size_bytes} bytes",
                reason="SourceChanged",
            )
        self._furthest = max(self._furthest, offset_bytes + length_bytes)
        return data

    def release(self, offset_bytes: int) -> None:
        """Nothing is held."""

    def finish(self) -> None:
        """Check the promised checksums; the registry has proven the digest's own when the upload ended."""
        promised = self._checksums.promised
        if promised.keys() - {self._digest.algorithm} or promised.get(self._digest.algorithm) != self._digest.hex:
            if not promised:
                return
            try:
                for piece in self._repository.open_blob(self._digest):
                    self._check_running()
                    self._checksums.update(piece)
            except RegistryError as exc:
                raise self._failed(exc) from exc
            self._checksums.verify()

    def abort(self) -> None:
        """Let the next read fail."""
        self._aborted.set()

    def close(self) -> None:
        """Nothing is held."""

    def _check_running(self) -> None:
        if self._aborted.is_set():
            raise SourceError("the import was stopped", reason="SourceInterrupted")

    def _failed(self, exc: RegistryError) -> SourceError:
        if exc.status == 404:
            return SourceError(f"the upload {self._digest} is gone; upload again", reason="SourceNotFound")
        return SourceError(f"the upload cannot be read back: {exc.message}", retryable=exc.retryable)
