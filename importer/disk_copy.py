"""A disk that is an artifact already, here or in another registry: its chunks are mounted or copied."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing

from dvcr.artifact.image import DiskImage
from dvcr.client.cancellation import Cancellation, RequestCancelledError
from dvcr.client.held import HeldBlobs
from dvcr.client.repository import Repository
from dvcr.descriptor import Descriptor
from dvcr.errors import RegistryError, SourceError

_PARALLEL = 8

FailedPull = Callable[[RegistryError], SourceError]


class DiskCopy:
    """The chunks of `image`, which are in `source`. In the same registry they are mounted, and no byte moves."""

    def __init__(
        self,
        source: Repository,
        image: DiskImage,
        *,
        same_registry: bool,
        failed: FailedPull | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        """`failed` tells the user what `source` refused; `close` frees what it needs."""
        self.image = image
        self._failed, self._close = failed, close
        self._cancellation = Cancellation()
        self._source = source.on_behalf_of(self._cancellation, self._note)
        self.trouble = ""
        """What a registry is asked again for."""
        self._same_registry = same_registry
        self._chunks: dict[str, Descriptor] = {str(c.descriptor.digest): c.descriptor for c in image.chunks}
        self._done_bytes = 0
        self.sent_bytes = 0
        """Bytes that could not be mounted."""
        self._lock = threading.Lock()

    @property
    def fetched_bytes(self) -> int:
        """Bytes of the chunks that are in place."""
        return self._done_bytes

    @property
    def total_bytes(self) -> int | None:
        """Bytes of all chunks, as they are stored."""
        return self.image.stored_bytes

    def copy(self, destination: Repository, on_progress: Callable[[int], None]) -> None:
        """Make `destination` have every chunk, each verified against its digest where its bytes move.

        `on_progress` gets the bytes of the virtual disk that are stored, about. Raises SourceError once aborted,
        RegistryError and IntegrityError.
        """
        try:
            self._copy(destination.on_behalf_of(self._cancellation, self._note), on_progress)
        except RequestCancelledError as exc:
            raise SourceError("the import was stopped", reason="SourceInterrupted") from exc

    def _copy(self, destination: Repository, on_progress: Callable[[int], None]) -> None:
        total = max(1, self.image.stored_bytes)
        with closing(HeldBlobs(destination)) as held, ThreadPoolExecutor(_PARALLEL, "copy-chunk") as pool:
            pending = {pool.submit(self._move, chunk, destination, held) for chunk in self._chunks.values()}
            try:
                while pending:
                    done, pending = wait(pending, timeout=1, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    on_progress(self.image.virtual_size_bytes * self._done_bytes // total)
            except BaseException:
                self.abort()
                pool.shutdown(cancel_futures=True)
                raise

    def abort(self) -> None:
        """Let go of both registries, from any thread. Idempotent."""
        self._cancellation.cancel()

    def close(self) -> None:
        """Free what the source needs. Idempotent."""
        if self._close is not None:
            self._close()

    def _move(self, chunk: Descriptor, destination: Repository, held: HeldBlobs) -> None:
        upload = destination.mount_or_begin(chunk.digest, self._source.name if self._same_registry else None)
        if upload is not None:
            upload.fill(self._read(chunk), chunk.digest)
        held.add(chunk.digest)
        self._count(chunk.size_bytes, upload.size_bytes if upload is not None else 0)

    def _read(self, chunk: Descriptor) -> Iterator[bytes]:
        """The blob; the error at its end, where it has another digest, comes before the upload is committed."""
        try:
            yield from self._source.open_blob(chunk.digest, chunk.size_bytes)
        except RegistryError as exc:
            raise (self._failed(exc) if self._failed else exc) from exc

    def _note(self, trouble: str) -> None:
        self.trouble = trouble

    def _count(self, size_bytes: int, sent_bytes: int) -> None:
        self.trouble = ""
        with self._lock:
            self._done_bytes += size_bytes
            self.sent_bytes += sent_bytes
