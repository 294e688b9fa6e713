"""From the body of a request to a blob of the registry."""

import asyncio
import time
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from dvcr.client.registry import RegistryClient
from dvcr.digest import Digest, Hasher
from dvcr.errors import DvcrError
from uploader.tickets import Reception, RefusedError

if TYPE_CHECKING:
    from dvcr.client.upload import BlobUpload

BATCH_BYTES = 4 * 2**20
_TELL_EVERY_S = 1.0


class CutError(DvcrError):
    """The client stopped sending."""

    default_reason = "UploadInterrupted"


class Receiver:
    """Streams one body into an upload session of the registry, a batch in flight while the next one arrives."""

    def __init__(self, reception: Reception, client: RegistryClient, threads: Executor, idle_timeout_s: float) -> None:
        self._reception = reception
        self._client = client
        self._threads = threads
        self._idle_timeout_s = idle_timeout_s
        self._hasher = Hasher()
        self._upload: BlobUpload | None = None
        self._told = time.monotonic()

    async def receive(self, content: aiohttp.StreamReader) -> tuple[Digest, int]:
        """Digest and size of the body, now a blob. Whatever fails, the session is gone afterwards."""
        loop = asyncio.get_running_loop()
        sending: asyncio.Future[None] | None = None
        try:
            async with asyncio.timeout(self._idle_timeout_s) as idle:
                batch = bytearray()
                while True:
                    idle.reschedule(loop.time() + self._idle_timeout_s)
                    data = await content.readany()
                    batch += data
                    if len(batch) >= BATCH_BYTES or (not data and batch):
                        idle.reschedule(None)  # the registry has its own timeout
                        if sending is not None:
                            await sending
                        sending = loop.run_in_executor(self._threads, self._send, bytes(batch))
                        batch.clear()
                    if not data:
                        break
                idle.reschedule(None)
                if sending is None:
                    raise RefusedError(400, "the request has no body; use: curl <address> -T <file>")  # noqa: TRY301
                await sending
            return await loop.run_in_executor(self._threads, self._commit)
        except BaseException as exc:
            await asyncio.shield(self._abandon(sending))
            if isinstance(exc, TimeoutError):
                message = f"no byte came for {self._idle_timeout_s:g} s; upload again"
                raise CutError(message, reason="UploadTimeout") from exc
            if isinstance(exc, (OSError, aiohttp.ClientError, web.HTTPException, aiohttp.http.HttpProcessingError)):
                raise CutError("the connection was cut before the end of the file; upload again") from exc
            raise

    async def _abandon(self, sending: "asyncio.Future[None] | None") -> None:
        if sending is not None:
            await asyncio.gather(sending, return_exceptions=True)  # the first failure is the one that is told
        if self._upload is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._upload.abort)

    def _send(self, data: bytes) -> None:
        if self._upload is None:
            self._upload = self._client.repository(self._reception.ticket.repository).begin_upload()
            self._reception.received(0)
        self._hasher.update(data)
        self._upload.append(data)
        if time.monotonic() - self._told >= _TELL_EVERY_S:
            self._told = time.monotonic()
            self._reception.received(self._upload.size_bytes)

    def _commit(self) -> tuple[Digest, int]:
        upload, digest = self._upload, self._hasher.digest()
        assert upload is not None
        self._reception.received(upload.size_bytes)
        upload.commit(digest)
        return digest, upload.size_bytes
