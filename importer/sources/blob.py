"""A ByteSource over what a user uploaded: parts in the registry that together are one file."""

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate

from dvcr.artifact.staged import Part, read_parts
from dvcr.client.cancellation import Cancellation, RequestCancelledError
from dvcr.client.repository import Repository
from dvcr.digest import Digest
from dvcr.errors import RegistryError, SourceError
from dvcr.jobs.job import BlobOrigin
from importer.checksums import Checksums


class BlobSource:
    """The bytes of an uploaded file, read by range; nothing is kept on disk."""

    def __init__(self, repository: Repository, origin: BlobOrigin, checksums: Mapping[str, str]) -> None:
        self._cancellation = Cancellation()
        self._repository = repository.on_behalf_of(self._cancellation, self._note)
        self.trouble = ""
        """What the registry is asked again for."""
        self._upload = Digest.parse(origin.digest)
        self._size_bytes = origin.size_bytes
        self._verified = origin.verified
        self._checksums = Checksums(checksums)
        self._furthest = 0
        self._listing = threading.Lock()
        self._parts: tuple[Part, ...] = ()
        self._begins: list[int] = []

    @property
    def fetched_bytes(self) -> int:
        """The end of the furthest range read so far."""
        return self._furthest

    @property
    def total_bytes(self) -> int | None:
        """The length of the file."""
        return self._size_bytes

    def size_bytes(self) -> int:
        """The length of the file."""
        return self._size_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """That range of the file."""
        with self._translated():
            return self._read_at(offset_bytes, length_bytes)

    def _read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        parts = self._list()
        end = max(offset_bytes, min(offset_bytes + length_bytes, self._size_bytes))
        pieces: list[bytes] = []
        position = offset_bytes
        while position < end:
            index = bisect_right(self._begins, position) - 1
            within = position - self._begins[index]
            length = min(parts[index].size_bytes - within, end - position)
            piece = self._repository.read_blob(parts[index].digest, within, length)
            self.trouble = ""
            if len(piece) != length:
                raise SourceError(
                    f"a part of the upload ends after {position + len(piece)} of {self._size_bytes} bytes",
                    reason="SourceChanged",
                )
            pieces.append(piece)
            position += length
        self._furthest = max(self._furthest, end)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release(self, offset_bytes: int) -> None:
        """Nothing is held."""

    def finish(self) -> None:
        """Check the promised checksums, unless the uploader could: it sees every byte unless it was restarted."""
        with self._translated():
            self._cancellation.check()
            if self._verified or not self._checksums.promised:
                return
            for part in self._list():
                for piece in self._repository.open_blob(part.digest, part.size_bytes):
                    self._checksums.update(piece)
        self._checksums.verify()

    def abort(self) -> None:
        """Let reads fail, also those that wait for the registry."""
        self._cancellation.cancel()

    def close(self) -> None:
        """Nothing is held."""

    def _list(self) -> tuple[Part, ...]:
        with self._listing:
            if not self._parts:
                self._parts = read_parts(self._repository, self._upload)
                ends = list(accumulate(part.size_bytes for part in self._parts))
                self._begins = [0, *ends[:-1]]
                if not ends or ends[-1] != self._size_bytes:
                    raise SourceError(
                        f"the upload {self._upload} has not the {self._size_bytes} bytes that were told; upload again",
                        reason="SourceChanged",
                    )
            return self._parts

    def _note(self, trouble: str) -> None:
        self.trouble = trouble

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except RequestCancelledError as exc:
            raise SourceError("the import was stopped", reason="SourceInterrupted") from exc
        except RegistryError as exc:
            raise self._failed(exc) from exc

    def _failed(self, exc: RegistryError) -> SourceError:
        if exc.status == 404:
            return SourceError(f"the upload {self._upload} is gone; upload again", reason="SourceNotFound")
        return SourceError(f"the upload cannot be read back: {exc.message}", retryable=exc.retryable)
