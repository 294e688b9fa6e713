"""From the body of a request to parts in the registry."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import aiohttp
from aiohttp import web

from dvcr.client.repository import Repository
from dvcr.digest import Digest
from dvcr.errors import DvcrError, ImageError, IntegrityError, RegistryError
from uploader.head import HEAD_BYTES, refuse_early
from uploader.parts import FileWriter
from uploader.promises import RememberedPromises
from uploader.ranges import Span
from uploader.tickets import ClosedError, Reception, RefusedError, TakenOverError

BATCH_BYTES = 4 * 2**20
_TELL_EVERY_S = 1.0
# The registry takes what nobody used for a day.
_REFRESH_AFTER = timedelta(hours=6)
T = TypeVar("T")


class CutError(DvcrError):
    """The body ended too early; the upload can go on."""

    default_reason = "UploadInterrupted"

    def __init__(self, message: str, status: int = 408) -> None:
        super().__init__(message)
        self.status = status


class ChecksumError(RefusedError):
    """The body is not what `Upload-Checksum` of tus promised; it was thrown away."""


class DrainError(CutError):
    """The uploader is about to end; set on the streams of bodies that are still arriving."""

    def __init__(self) -> None:
        super().__init__("the uploader is being restarted; go on with the upload where it stopped", 503)


@dataclass(frozen=True)
class Limits:
    """What the settings allow."""

    max_size_bytes: int
    max_virtual_size_bytes: int
    idle_timeout_s: float


@dataclass(frozen=True)
class BodyChecksum:
    """tus checksum extension: of the body of one request."""

    algorithm: str
    value: bytes


class Receiver:
    """Takes one body. `receive` leaves the ticket free: waiting for what is next, complete, or failed."""

    def __init__(
        self,
        reception: Reception,
        repository: Repository,
        threads: Executor,
        limits: Limits,
        remembered: RememberedPromises,
        span: Span,
        checksum: BodyChecksum | None = None,
    ) -> None:
        self._reception = reception
        self._repository = repository
        self._threads = threads
        self._limits = limits
        self._span = span
        self._total_bytes = span.total_bytes or reception.ticket.total_bytes
        self._before = reception.ticket.parts
        self._writer = FileWriter(repository, self._before, span.start)
        self._checksum = checksum
        self._body_hash = hashlib.new(checksum.algorithm, usedforsecurity=False) if checksum else None
        self._remembered = remembered
        ticket = reception.ticket
        self._promises = remembered.take(ticket.token, span.start, ticket.checksums)
        self._head: bytearray | None = bytearray() if span.start == 0 else None
        self._told = time.monotonic()
        self._rest = b""

    @property
    def offset_bytes(self) -> int:
        """Where the upload goes on."""
        return sum(part.size_bytes for part in self._writer.parts)

    async def receive(self, content: aiohttp.StreamReader) -> bool:
        """Whether the file is complete.

        Whatever has arrived is safe afterwards, but for a body with a checksum, which is taken as a whole or not at
        all. Raises CutError where the client or this server stopped; RefusedError 400, 409, 413 or 507; ImageError and
        IntegrityError where the file cannot become an image, and everything of it is gone; RegistryError.
        """
        try:
            return await self._receive(content)
        finally:
            await self._completed(self._writer.close)

    async def _receive(self, content: aiohttp.StreamReader) -> bool:
        try:
            await self._completed(self._refresh)
            await self._stream(content)
        except BaseException as exc:
            error = exc if isinstance(exc, (DvcrError, asyncio.CancelledError)) else _translated(exc)
            await self._completed(lambda: self._stop(error))
            raise error from exc
        return await self._completed(self._end)

    async def _stream(self, content: aiohttp.StreamReader) -> None:
        loop = asyncio.get_running_loop()
        sending: asyncio.Future[None] | None = None
        batch = bytearray()
        try:
            async with asyncio.timeout(self._limits.idle_timeout_s) as idle:
                while True:
                    idle.reschedule(loop.time() + self._limits.idle_timeout_s)
                    data = await content.readany()
                    batch += data
                    if len(batch) >= BATCH_BYTES or (not data and batch):
                        idle.reschedule(None)  # the registry has its own timeout
                        if sending is not None:
                            await sending
                        sending = loop.run_in_executor(self._threads, self._take, bytes(batch))
                        batch.clear()
                    if not data:
                        idle.reschedule(None)
                        break
            if sending is not None:
                await sending
        except BaseException:
            self._rest = bytes(batch)
            if sending is not None:
                await asyncio.wait([sending])
                if sending.exception() is not None:  # told instead: it came first
                    self._rest = b""
                    await sending
            raise

    async def _completed(self, call: Callable[[], T]) -> T:
        """What a call in a thread gives, which is waited for also when the request is cancelled meanwhile."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    # Below: in threads, one at a time.

    def _refresh(self) -> None:
        """Use the parts, where that was long ago. HeldBlobs does it while a body is received, not between bodies."""
        if datetime.now(UTC) - self._reception.ticket.refreshed_at > _REFRESH_AFTER:
            self._require_parts()
            self._reception.refreshed()

    def _require_parts(self) -> None:
        """RefusedError 409 where the registry lacks parts; the upload then goes on before the first of these."""
        parts = self._writer.parts
        for index, part in enumerate(parts):
            if not self._repository.has_blob(part.digest):
                self._writer.parts = self._before = parts[:index]
                raise RefusedError(
                    409,
                    f"the registry has lost what it had received from byte {self.offset_bytes} on; go on with the "
                    f"upload there: curl <address> -C {self.offset_bytes} -T <file>",
                    {"Upload-Offset": str(self.offset_bytes)},
                )
            if time.monotonic() - self._told >= _TELL_EVERY_S:
                self._told = time.monotonic()
                self._tell()  # which also keeps the ticket ours

    def _seal(self) -> Digest:
        try:
            return self._writer.seal()
        except RegistryError as error:
            if error.code == "MANIFEST_BLOB_UNKNOWN":
                self._require_parts()
            raise

    def _take(self, data: bytes) -> None:
        position = self._writer.position_bytes + len(data)
        self._check_size(position)
        if self._body_hash is not None:
            self._body_hash.update(data)
        self._promises.update(data)
        self._inspect(data)
        closed = self._writer.write(data)
        now = time.monotonic()
        if closed or now - self._told >= _TELL_EVERY_S or position == self._span.start + len(data):
            self._told = now
            self._tell()

    def _check_size(self, position: int) -> None:
        if position > self._limits.max_size_bytes:
            raise too_large(self._limits.max_size_bytes)
        if self._total_bytes is not None and position > self._total_bytes:
            raise RefusedError(400, f"the body goes beyond the {self._total_bytes} bytes that the file was to have")

    def _inspect(self, data: bytes, *, end: bool = False) -> None:
        if self._head is None:
            return
        self._head += data[: HEAD_BYTES - len(self._head)]
        if end or len(self._head) == HEAD_BYTES:
            head, self._head = bytes(self._head), None
            refuse_early(head, self._total_bytes, max_virtual_size_bytes=self._limits.max_virtual_size_bytes)

    def _tell(self) -> None:
        # With a checksum to come, nothing of the body is safe yet.
        parts = self._before if self._checksum else self._writer.parts
        self._reception.received(self._writer.position_bytes, parts, self._total_bytes)

    def _end(self) -> bool:
        try:
            return self._finish()
        except BaseException as error:
            self._stop(error)
            raise

    def _finish(self) -> bool:
        writer, position = self._writer, self._writer.position_bytes
        length = position - self._span.start
        if self._span.length_bytes not in (None, length):
            raise CutError(f"the body has {length} bytes instead of {self._span.length_bytes}", 400)
        if self._checksum and self._body_hash:
            if not hmac.compare_digest(self._body_hash.digest(), self._checksum.value):
                raise ChecksumError(460, f"the {self._checksum.algorithm} of the body is not what Upload-Checksum says")
            self._checksum = None
        complete = self._span.last or position == self._total_bytes
        if complete and position < self.offset_bytes:
            raise RefusedError(409, f"{self.offset_bytes} bytes are here already; a file of {position} cannot be right")
        if complete and not position:
            raise RefusedError(400, "the request has no body; use: curl <address> -T <file>")
        if complete:
            self._total_bytes = position
        self._inspect(b"", end=True)
        writer.close_part()
        if not complete:
            self._make_safe()
            return False
        self._promises.verify()
        self._tell()
        manifest = self._seal()
        self._reception.complete(writer.parts, manifest, verified=bool(self._promises))
        return True

    def _stop(self, error: BaseException) -> None:
        """Leave ticket and registry so that the upload can go on, where it can."""
        writer, message = self._writer, error.message if isinstance(error, DvcrError) else "the upload was cut"
        try:
            match error:
                case TakenOverError():
                    writer.abort()
                case ClosedError():
                    self._discard()
                case ImageError() | IntegrityError():
                    self._discard()
                    self._reception.fail(error.reason, error.message)
                case RefusedError(status=413):
                    self._discard()
                    self._reception.pause((), None, message)
                case CutError() | asyncio.CancelledError() if self._checksum is None:
                    self._take(self._rest)
                    writer.close_part()
                    self._make_safe(message)
                case _:
                    self._keep_whole_parts(message)
        except (TakenOverError, ClosedError):
            writer.abort()
        except (ImageError, IntegrityError) as second:
            self._stop(second)  # the last bytes before the cut told that it can become no image
        except DvcrError as second:
            writer.abort()
            self._keep_whole_parts(f"{message}; {second.message}")

    def _make_safe(self, message: str = "") -> None:
        self._tell()
        position = self._writer.position_bytes
        if position == self.offset_bytes:
            self._remembered.keep(self._reception.ticket.token, position, self._promises)
        self._writer.join_parts()
        self._reception.pause(self._writer.parts, self._total_bytes, message)
        self._writer.clean()

    def _keep_whole_parts(self, message: str) -> None:
        self._writer.abort()
        written, self._writer.parts = self._writer.parts, self._writer.parts if not self._checksum else self._before
        self._reception.pause(self._writer.parts, self._total_bytes, message)
        self._writer.remove(written[len(self._writer.parts) :])

    def _discard(self) -> None:
        self._writer.abort()
        parts, self._writer.parts = self._writer.parts, ()
        self._writer.remove(parts)


def too_large(max_size_bytes: int) -> RefusedError:
    """413."""
    return RefusedError(
        413,
        f"the file is larger than {max_size_bytes} bytes, the most that is accepted; compress it (xz, zstd, qcow2 -c)",
    )


def _translated(exc: BaseException) -> BaseException:
    if isinstance(exc, TimeoutError):
        return CutError("no byte came for too long; go on with the upload where it stopped")
    if isinstance(exc, (OSError, aiohttp.ClientError, web.HTTPException, aiohttp.http.HttpProcessingError)):
        return CutError("the connection was cut before the end of the file; go on where it stopped")
    return exc
