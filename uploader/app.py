"""The upload service: one file a ticket, straight into the registry.

PUT      /upload/<token>   the file, or with Content-Range a piece of it; 201 once it is whole, 202 before
GET      /upload/<token>   how far it is, as JSON; HEAD: in the header Upload-Offset
POST, PATCH, DELETE, OPTIONS   the same file by the tus protocol, see `uploader.tus`
GET      /healthz /readyz /metrics
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog
from aiohttp import StreamReader, web
from aiohttp.typedefs import Handler

from dvcr.client.registry import RegistryClient
from dvcr.config import Settings
from dvcr.errors import DvcrError, ImageError, IntegrityError, RegistryError
from dvcr.http.drain import Drain
from dvcr.jobs.board import JobBoard
from dvcr.jobs.job import UploadState, UploadTicket
from uploader.admission import Admission
from uploader.observe import Observer, shown
from uploader.promises import RememberedPromises
from uploader.ranges import Span, span_of
from uploader.receive import BodyChecksum, CutError, DrainError, Limits, Receiver, too_large
from uploader.tickets import Reception, RefusedError, find

PATH = "/upload/{token}"
T = TypeVar("T")
log = structlog.get_logger(__name__)


class UploadService:
    """Receives files. Board and registry are called in threads of its own."""

    def __init__(self, board: JobBoard, client: RegistryClient, settings: Settings) -> None:
        self.board = board
        self.settings = settings.uploader
        self.observer = Observer()
        self.drain = Drain()
        self._client = client
        self._limits = Limits(
            settings.uploader.max_size_bytes,
            settings.importer.max_virtual_size_bytes,
            settings.uploader.idle_timeout_s,
        )
        self._admission = Admission(settings.uploader.max_uploads, settings.uploader.max_client_uploads)
        self._remembered = RememberedPromises()
        self._threads = ThreadPoolExecutor(settings.uploader.max_uploads + 8, "uploader")
        self._bodies: set[StreamReader] = set()

    async def run(self, call: Callable[..., T], *arguments: object) -> T:
        """What a blocking call gives."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    def stop_receiving(self) -> None:
        """End the uploads under way: what has arrived is made safe, their clients are told to go on elsewhere."""
        self.drain.has_begun = True
        for body in self._bodies:
            body.set_exception(DrainError())

    async def close(self, _: web.Application) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def put(self, request: web.Request) -> web.StreamResponse:
        """PUT, as curl sends it."""
        span = span_of(request.headers.get("Content-Range"), request.content_length)
        require_size(span.total_bytes, self._limits.max_size_bytes)
        async with self.receiving(request) as reception:
            offset = reception.ticket.offset_bytes
            if "Content-Range" not in request.headers and offset:
                await self.run(start_over, reception, self._client)
            else:
                _require_place(span, offset)
            require_same_total(reception.ticket, span.total_bytes)
            complete, offset = await self.receive(request, reception, span)
        body = {"state": "Complete" if complete else "Waiting", "receivedBytes": offset}
        headers = {"Upload-Offset": str(offset)}
        return web.json_response(body, status=201 if complete else 202, headers=headers, dumps=_line)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """How far the upload is."""
        ticket = await self.run(find, self.board, request.match_info["token"])
        body = {
            "state": ticket.state,
            "offset": ticket.offset_bytes,
            "receivedBytes": ticket.received_bytes,
            "totalBytes": ticket.total_bytes,
            "message": ticket.message,
        }
        headers = {"Upload-Offset": str(ticket.offset_bytes), "Cache-Control": "no-store"}
        return web.json_response(body, headers=headers, dumps=_line)

    @asynccontextmanager
    async def reception(self, request: web.Request) -> AsyncIterator[Reception]:
        """Take the ticket for this request; it is free again afterwards."""
        if self.drain.has_begun:
            raise DrainError
        reception = await self.run(Reception.begin, self.board, request.match_info["token"], self.settings)
        try:
            yield reception
        finally:
            await self.run(reception.release)

    @asynccontextmanager
    async def receiving(self, request: web.Request) -> AsyncIterator[Reception]:
        """As `reception`, for a file's bytes: RefusedError 429 or 503 where too many are under way, before a thing."""
        with self._admission.admit(request.remote or ""):
            async with self.reception(request) as reception:
                yield reception

    async def receive(
        self, request: web.Request, reception: Reception, span: Span, checksum: BodyChecksum | None = None
    ) -> tuple[bool, int]:
        """Whether the file is complete after the body of this request, and where it goes on."""
        _continue(request)
        repository = self._client.repository(reception.ticket.repository)
        receiver = Receiver(reception, repository, self._threads, self._limits, self._remembered, span, checksum)
        return await self._receive(request, receiver)

    async def _receive(self, request: web.Request, receiver: Receiver) -> tuple[bool, int]:
        observer, upload = self.observer, shown(request.match_info["token"])
        self._bodies.add(request.content)
        observer.uploads_under_way.inc()
        try:
            complete = await receiver.receive(request.content)
        except BaseException as exc:
            observer.uploads.labels("cut" if isinstance(exc, CutError) else "failed").inc()
            message = exc.message if isinstance(exc, DvcrError) else repr(exc)
            log.warning("upload stopped", upload=upload, offset_bytes=receiver.offset_bytes, why=message)
            raise
        finally:
            self._bodies.discard(request.content)
            observer.uploads_under_way.dec()
        observer.uploads.labels("complete" if complete else "partial").inc()
        log.info("upload received", upload=upload, offset_bytes=receiver.offset_bytes, complete=complete)
        return complete, receiver.offset_bytes


def start_over(reception: Reception, client: RegistryClient) -> None:
    """Forget what was received. Blocking."""
    parts = reception.ticket.parts
    reception.received(0, (), None)
    repository = client.repository(reception.ticket.repository)
    for digest in {part.digest for part in parts}:
        repository.delete_blob(digest)


def require_size(total_bytes: int | None, max_size_bytes: int) -> None:
    """RefusedError 413 where the file is known to be too large, 400 where it is empty."""
    if total_bytes == 0:
        raise RefusedError(400, "the file is empty; use: curl <address> -T <file>")
    if total_bytes is not None and total_bytes > max_size_bytes:
        raise too_large(max_size_bytes)


def require_same_total(ticket: UploadTicket, total_bytes: int | None) -> None:
    """RefusedError 409 where this is another file than the one that was begun."""
    if ticket.parts and None not in (ticket.total_bytes, total_bytes) and ticket.total_bytes != total_bytes:
        raise RefusedError(
            409,
            f"the file that was begun has {ticket.total_bytes} bytes, this one {total_bytes}; "
            "to send another one, use: curl <address> -T <file>, without -C",
        )


def _require_place(span: Span, offset: int) -> None:
    # From the beginning, what is here already is compared, and the upload goes on after it.
    if span.start not in (0, offset):
        raise RefusedError(
            416,
            f"the upload goes on at byte {offset}; use: curl <address> -C {offset} -T <file>",
            {"Upload-Offset": str(offset), "Content-Range": f"bytes */{span.total_bytes or '*'}"},
        )


@web.middleware
async def translate_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one table from errors to the wire: a line that says what to do."""
    try:
        return await handler(request)
    except (RefusedError, CutError) as error:
        return _plain(error.status, error.message, getattr(error, "headers", None))
    except (ImageError, IntegrityError) as error:
        return _plain(422, f"{error.reason}: {error.message}")
    except RegistryError as error:
        log.exception("the registry failed")
        return _plain(503 if error.retryable else 502, f"{error.message}; go on with the upload where it stopped")
    except DvcrError as error:
        log.exception("upload failed")
        return _plain(503 if error.retryable else 500, error.message)
    except web.HTTPException as error:
        return _plain(error.status, f"{request.method} {error.reason}")
    except Exception:
        log.exception("request failed")
        return _plain(500, "the uploader failed; its log says why under this X-Request-ID")


async def wait_for_the_checks(_: web.Request) -> None:
    """A client that asks `Expect: 100-continue` is answered by `_continue`, or refused before it sends the file."""


def is_open(ticket: UploadTicket) -> bool:
    """Whether more bytes are welcome."""
    return ticket.state in (UploadState.WAITING, UploadState.RECEIVING)


def _continue(request: web.Request) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _line(value: object) -> str:
    # curl shows the answer as it is: the line ends, so that the prompt begins a new one.
    return json.dumps(value) + "\n"


def _plain(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=f"{message}\n", headers=headers)
