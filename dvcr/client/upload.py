"""A resumable upload of one blob (distribution-spec, "Pushing a blob in chunks")."""

import re
import threading
from collections.abc import Callable, Iterable
from urllib.parse import urljoin

import requests
import structlog

from dvcr.client.cancellation import Cancellation, RequestCancelledError
from dvcr.client.retry import RetryPolicy, retried
from dvcr.client.transport import Transport
from dvcr.descriptor import OCTET_STREAM
from dvcr.digest import Digest
from dvcr.errors import RegistryError

log = structlog.get_logger(__name__)

_PIECE_BYTES = 4 * 2**20
_ABANDON_S = 5.0
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


class BlobUpload:
    """An upload session. One caller at a time; what was appended survives the caller and the registry's restart."""

    def __init__(
        self, transport: Transport, scope: str, blob_url: Callable[[Digest], str], location: str, size_bytes: int
    ) -> None:
        self.location = location
        """Where the session goes on; changes with every `append`. `Repository.resume_upload` takes it."""
        self.size_bytes = size_bytes
        """Bytes that the registry has acknowledged."""
        self._transport = transport
        self._scope = scope
        self._blob_url = blob_url

    @property
    def retry(self) -> RetryPolicy:
        """How transient failures are retried."""
        return self._transport.retry

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add `data` at the end; returns once the registry acknowledged all of it.

        After a failure in between, the registry is asked how much arrived and only the rest is sent again. Raises
        RegistryError with status 404 where the session is gone, and 507, not retryable, where the registry is full,
        which may end the session.
        """
        view = memoryview(data).cast("B")
        start, end = self.size_bytes, self.size_bytes + len(view)
        failed = False

        def send() -> None:
            nonlocal failed
            if failed:
                self.refresh()
            failed = True
            if not start <= self.size_bytes <= end:
                raise RegistryError(
                    f"the upload session has {self.size_bytes} bytes, expected {start} to {end}; start over",
                    code="BLOB_UPLOAD_INVALID",
                    status=416,
                )
            if self.size_bytes < end:
                try:
                    self._patch(bytes(view[self.size_bytes - start :]))
                except RegistryError as error:
                    if error.status == 507:
                        raise RegistryError(error.message, code=error.code, status=507, retryable=False) from error
                    raise

        while self.size_bytes < end:
            self.retry.run(send)

    def commit(self, digest: Digest) -> None:
        """Make the session's bytes the blob `digest` and end the session. RegistryError DIGEST_INVALID if they differ.

        Repeated after a lost answer, it finds the blob in place.
        """
        failed = False

        def finish() -> None:
            nonlocal failed
            if failed and self._exists(digest):
                return
            failed = True
            with self._transport.request(
                "PUT", self.location, scope=self._scope, query={"digest": str(digest)}, expect=(201,)
            ):
                pass

        self.retry.run(finish)

    def fill(
        self, pieces: Iterable[bytes], digest: Digest, on_progress: Callable[[int], None] = lambda _: None
    ) -> None:
        """Append what `pieces` bring and commit it as `digest`; `on_progress` gets the bytes of each step.

        Whatever this or the pieces raise, also where the undertaking was cancelled, the session is given up.
        """
        piece = bytearray()
        try:
            for data in pieces:
                piece += data
                if len(piece) >= _PIECE_BYTES:
                    self.append(piece)
                    on_progress(len(piece))
                    piece = bytearray()
            self.append(piece)
            on_progress(len(piece))
            self.commit(digest)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """`abort` on behalf of nobody: also where the undertaking was cancelled. Not for long, and never fails."""
        patience = Cancellation()
        timer = threading.Timer(_ABANDON_S, patience.cancel)
        timer.daemon = True
        timer.start()
        try:
            transport = self._transport.on_behalf_of(patience)
            BlobUpload(transport, self._scope, self._blob_url, self.location, self.size_bytes).abort()
        except (RegistryError, RequestCancelledError) as exc:
            log.warning("an upload session is left until the registry expires it", error=exc.message)
        finally:
            timer.cancel()

    @retried
    def abort(self) -> None:
        """Forget the bytes and the session. Idempotent."""
        with self._transport.request("DELETE", self.location, scope=self._scope, expect=(200, 202, 204, 404)):
            pass

    @retried
    def refresh(self) -> None:
        """Ask the registry how much it has: sets `size_bytes` and `location`."""
        with self._transport.request("GET", self.location, scope=self._scope, expect=(204,)) as response:
            size_bytes = _received(response)
            # Some registries say 0-0 for no byte as well as for one; what we know decides.
            self.size_bytes = min(self.size_bytes, 1) if size_bytes in (None, 1) else size_bytes or 0
            self.location = upload_location(response, self.location)

    def _patch(self, data: bytes) -> None:
        end = self.size_bytes + len(data)
        headers = {"Content-Type": OCTET_STREAM, "Content-Range": f"{self.size_bytes}-{end - 1}"}
        with self._transport.request(
            "PATCH", self.location, scope=self._scope, headers=headers, body=data, expect=(202,)
        ) as response:
            received = _received(response)
            self.size_bytes = end if received is None else received
            self.location = upload_location(response, self.location)

    def _exists(self, digest: Digest) -> bool:
        with self._transport.request("HEAD", self._blob_url(digest), scope=self._scope, expect=(200, 404)) as response:
            return response.status_code == 200


def upload_location(response: requests.Response, default: str = "") -> str:
    """The absolute address where the session goes on; RegistryError where the registry names none."""
    location = response.headers.get("Location", default)
    if not location:
        raise RegistryError(f"{response.url} opens an upload without a Location; is this a registry?", retryable=False)
    return urljoin(response.url, location)


def _received(response: requests.Response) -> int | None:
    match = _RANGE.fullmatch(response.headers.get("Range", ""))
    return int(match[1]) + 1 if match else None
