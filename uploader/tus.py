"""The same upload by the tus protocol, version 1.0.0 (tus.io/protocols/resumable-upload), for browsers and SDKs.

The ticket's address is both where an upload is created and where it lives: clients may be given it as either.
Extensions: creation, creation-with-upload, creation-defer-length, checksum, expiration, termination.
"""

import base64
import binascii
import re
from email.utils import format_datetime

from aiohttp import web
from aiohttp.typedefs import Handler

from dvcr.artifact.staged import discard
from dvcr.client.registry import RegistryClient
from dvcr.jobs.job import UploadTicket
from uploader.app import UploadService, is_open, require_same_total, require_size, start_over
from uploader.ranges import Span
from uploader.receive import BodyChecksum
from uploader.tickets import Reception, RefusedError, find, require_open

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination"
ALGORITHMS = ("md5", "sha1", "sha256", "sha512")
BODY_TYPE = "application/offset+octet-stream"
_MAX_METADATA_BYTES = 4096
_NUMBER = re.compile(r"\d{1,19}")


class TusProtocol:
    """Handlers of one application."""

    def __init__(self, service: UploadService, client: RegistryClient) -> None:
        self._service = service
        self._client = client
        self._max_size_bytes = service.settings.max_size_bytes

    async def options(self, _request: web.Request) -> web.StreamResponse:
        """What this server can do."""
        headers = {
            "Tus-Version": VERSION,
            "Tus-Extension": EXTENSIONS,
            "Tus-Max-Size": str(self._max_size_bytes),
            "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
        }
        return web.Response(status=204, headers=headers)

    async def head(self, request: web.Request) -> web.StreamResponse:
        """Where the upload goes on."""
        ticket = await self._service.run(find, self._service.board, request.match_info["token"])
        if is_open(ticket):
            require_open(ticket)
        elif not ticket.digest:
            raise RefusedError(410, "the upload has failed")
        headers = {"Upload-Offset": str(ticket.offset_bytes), "Cache-Control": "no-store"}
        headers |= {"Upload-Defer-Length": "1"} if ticket.total_bytes is None else {
            "Upload-Length": str(ticket.total_bytes)
        }  # fmt: skip
        if ticket.tus_metadata:
            headers["Upload-Metadata"] = ticket.tus_metadata
        return web.Response(headers={**headers, **_expires(ticket)})

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Create the upload, perhaps with its first bytes; or another method where the client cannot send it."""
        match request.headers.get("X-HTTP-Method-Override", "").upper():
            case "PATCH":
                return await self.patch(request)
            case "DELETE":
                return await self.delete(request)
            case "HEAD":
                return await self.head(request)
            case "":
                return await self._create(request)
        raise RefusedError(405, "X-HTTP-Method-Override: PATCH, DELETE or HEAD")

    async def patch(self, request: web.Request) -> web.StreamResponse:
        """Add bytes at the end."""
        _require_body_type(request)
        offset = _number(request, "Upload-Offset")
        if offset is None:
            raise RefusedError(400, "Upload-Offset is missing: the offset of the first byte of the body")
        checksum = _checksum(request)
        async with self._service.receiving(request) as reception:
            ticket = reception.ticket
            _require_offset(offset, ticket)
            total = self._total(request, ticket)
            _require_within(request, offset, total)
            span = Span(offset, request.content_length, total, last=False)
            _, offset = await self._service.receive(request, reception, span, checksum)
        return web.Response(status=204, headers={"Upload-Offset": str(offset), **_expires(reception.ticket)})

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Give the upload up: its resource fails, what was received is removed."""
        async with self._service.reception(request) as reception:
            await self._service.run(_terminate, reception, self._client)
        return web.Response(status=204)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        total = _number(request, "Upload-Length")
        if total is None and request.headers.get("Upload-Defer-Length") != "1":
            raise RefusedError(400, "give Upload-Length, or Upload-Defer-Length: 1 where it is not known yet")
        require_size(total, self._max_size_bytes)
        metadata = request.headers.get("Upload-Metadata", "")
        if len(metadata) > _MAX_METADATA_BYTES:
            raise RefusedError(400, f"Upload-Metadata has more than {_MAX_METADATA_BYTES} bytes")
        with_body = request.can_read_body and request.content_length != 0
        if with_body:
            _require_body_type(request)
        checksum = _checksum(request)
        offset = 0
        async with self._service.receiving(request) as reception:
            _require_within(request, 0, total)
            if reception.ticket.parts:
                await self._service.run(start_over, reception, self._client)
            await self._service.run(reception.describe, total, metadata)
            if with_body:
                span = Span(0, request.content_length, total, last=False)
                _, offset = await self._service.receive(request, reception, span, checksum)
        # Relative, so that it is right behind any proxy.
        headers = {"Location": request.match_info["token"], "Upload-Offset": str(offset)}
        return web.Response(status=201, headers={**headers, **_expires(reception.ticket)})

    def _total(self, request: web.Request, ticket: UploadTicket) -> int | None:
        told = _number(request, "Upload-Length")
        require_size(told, self._max_size_bytes)
        if told is not None and ticket.total_bytes not in (None, told):
            raise RefusedError(400, f"Upload-Length was {ticket.total_bytes} before, and cannot change")
        require_same_total(ticket, told)
        return told or ticket.total_bytes


@web.middleware
async def speak_tus(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse another version, 412, and name ours in every answer."""
    if "token" not in request.match_info or request.method in ("GET", "PUT", "OPTIONS"):
        return await handler(request)
    asked = request.headers.get("Tus-Resumable")
    if asked != VERSION and not (request.method == "HEAD" and asked is None):
        response: web.StreamResponse = web.Response(
            status=412, text=f"Tus-Resumable: {VERSION} is the version that is spoken here\n"
        )
        response.headers["Tus-Version"] = VERSION
    else:
        response = await handler(request)
    response.headers["Tus-Resumable"] = VERSION
    return response


def _terminate(reception: Reception, client: RegistryClient) -> None:
    parts = reception.ticket.parts
    reception.fail("UploadTerminated", "the client gave the upload up; create the resource again to upload anew")
    discard(client.repository(reception.ticket.repository), parts)


def _checksum(request: web.Request) -> BodyChecksum | None:
    header = request.headers.get("Upload-Checksum")
    if header is None:
        return None
    algorithm, _, encoded = header.strip().partition(" ")
    if algorithm not in ALGORITHMS:
        raise RefusedError(400, f"Upload-Checksum: {algorithm[:20]!r} is not supported; use {', '.join(ALGORITHMS)}")
    try:
        return BodyChecksum(algorithm, base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError):
        raise RefusedError(400, "Upload-Checksum: after the algorithm comes the digest in base64") from None


def _require_body_type(request: web.Request) -> None:
    if request.content_type != BODY_TYPE:
        raise RefusedError(415, f"Content-Type must be {BODY_TYPE}")


def _require_offset(offset: int, ticket: UploadTicket) -> None:
    if offset != ticket.offset_bytes:
        raise RefusedError(
            409, f"the upload goes on at byte {ticket.offset_bytes}", {"Upload-Offset": str(ticket.offset_bytes)}
        )


def _require_within(request: web.Request, offset: int, total: int | None) -> None:
    if total is not None and offset + (request.content_length or 0) > total:
        raise RefusedError(413, f"the body goes beyond the {total} bytes that the file was to have")


def _number(request: web.Request, header: str) -> int | None:
    text = request.headers.get(header)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise RefusedError(400, f"{header}: {text[:30]!r} is no number of bytes")
    return int(text)


def _expires(ticket: UploadTicket) -> dict[str, str]:
    return {"Upload-Expires": format_datetime(ticket.expires_at, usegmt=True)} if is_open(ticket) else {}
