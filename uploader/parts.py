"""A file that grows in the registry, part by part."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from dvcr.artifact.staged import Part, part_bytes, seal
from dvcr.client.held import HeldBlobs
from dvcr.client.repository import Repository
from dvcr.digest import Digest, Hasher
from dvcr.errors import DvcrError, RegistryError
from uploader.tickets import RefusedError

if TYPE_CHECKING:
    from dvcr.client.upload import BlobUpload

log = structlog.get_logger(__name__)


class FileWriter:
    """Writes a file from `position_bytes` on. Blocking; one caller at a time.

    What is in `parts` is durable. Where writing begins before their end, the bytes are compared with them instead:
    RefusedError 409 where they differ. Full parts are closed on the way; `close_part` closes the last one. RefusedError
    507 where the registry has no room, RegistryError where it fails.
    """

    def __init__(self, repository: Repository, parts: tuple[Part, ...], position_bytes: int) -> None:
        self.parts = parts
        self.position_bytes = position_bytes
        """Offset in the file of the next byte."""
        self._repository = repository
        self._known = list(parts) if position_bytes < sum(part.size_bytes for part in parts) else []
        self._hasher = Hasher()
        self._upload: BlobUpload | None = None
        self._in_part = 0
        self._obsolete: list[Part] = []
        self._held = HeldBlobs(repository)
        for part in parts:
            self._held.add(part.digest)

    def write(self, data: bytes) -> bool:
        """Add `data`; whether a part was closed, so that `parts` is worth being told."""
        view = memoryview(data)
        closed = False
        while view:
            limit = self._known[0].size_bytes if self._known else part_bytes(self.position_bytes - self._in_part)
            piece = view[: limit - self._in_part]
            view = view[len(piece) :]
            self._hasher.update(piece)
            if not self._known:
                self._append(piece)
            self._in_part += len(piece)
            self.position_bytes += len(piece)
            if self._in_part == limit:
                if self._known:
                    self._compare()
                else:
                    self.close_part()
                    closed = True
        return closed

    def close_part(self) -> None:
        """Make what was written durable, as a part of its own if it is not one yet."""
        if self._known or self._upload is None:
            return
        part = Part(digest=self._hasher.digest(), size_bytes=self._in_part)
        with _room():
            self._upload.commit(part.digest)
        self.parts = (*self.parts, part)
        self._held.add(part.digest)
        self._upload = None
        self._next_part()

    def seal(self) -> Digest:
        """Make one file of the parts, which can be read back by the manifest of this digest."""
        with _room():
            return seal(self._repository, self.parts)

    def join_parts(self) -> None:
        """Make one of neighbours that are small: many short requests must not leave a part each.

        Each byte is copied a few times at most; files have no more parts than if they had come at once, but for a few.
        """
        while len(self.parts) > 1 and self._worth_joining():
            first, second = self.parts[-2:]
            self._in_part = 0
            for part in (first, second):
                for piece in self._repository.open_blob(part.digest, part.size_bytes):
                    self._hasher.update(piece)
                    self._append(memoryview(piece))
                    self._in_part += len(piece)
            self.parts = self.parts[:-2]
            self.close_part()
            self._obsolete += first, second

    def close(self) -> None:
        """Hold the parts no longer against garbage collection. Idempotent."""
        self._held.close()

    def clean(self) -> None:
        """Remove parts that became obsolete, once the new ones were told."""
        self.remove(self._obsolete)
        self._obsolete = []

    def remove(self, obsolete: "list[Part] | tuple[Part, ...]") -> None:
        """Remove these parts, but for those that have the same bytes as one that is needed. Never fails."""
        try:
            for digest in {part.digest for part in obsolete} - {part.digest for part in self.parts}:
                self._repository.delete_blob(digest)
        except RegistryError as error:
            # Nothing refers to them.
            log.warning("parts stay until garbage collection", repository=self._repository.name, error=error.message)

    def abort(self) -> None:
        """Forget what is not in `parts`. Idempotent, never fails."""
        upload, self._upload = self._upload, None
        if upload is not None:
            try:
                upload.abort()
            except DvcrError as error:
                log.warning("a session stays until it expires", repository=self._repository.name, error=error.message)
        self._next_part()

    def _append(self, piece: memoryview) -> None:
        if self._upload is None:
            with _room(granted=False):
                self._upload = self._repository.begin_upload()
        with _room():
            self._upload.append(piece)

    def _compare(self) -> None:
        if self._hasher.digest() != self._known.pop(0).digest:
            raise RefusedError(
                409,
                "this is not the file that was begun; to send another one, use: curl <address> -T <file>, without -C",
            )
        self._next_part()

    def _next_part(self) -> None:
        self._hasher, self._in_part = Hasher(), 0

    def _worth_joining(self) -> bool:
        first, second = (part.size_bytes for part in self.parts[-2:])
        return first <= 2 * second and first + second <= part_bytes(self.position_bytes - first - second)


@contextmanager
def _room(*, granted: bool = True) -> Iterator[None]:
    """RefusedError 507 where the registry has no room. To what it has granted, any refusal means that."""
    try:
        yield
    except RegistryError as error:
        if error.status == 507 or (granted and error.code == "DENIED"):
            raise RefusedError(
                507, f"the registry has no room for the file ({error.message}); free some, then go on with the upload"
            ) from error
        raise
