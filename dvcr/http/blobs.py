"""Pulling and deleting blobs (distribution-spec, "Pulling blobs", "Deleting Blobs")."""

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from typing import BinaryIO

import structlog
from aiohttp import web

from dvcr.digest import Digest
from dvcr.errors import DvcrError, StorageError
from dvcr.http.ranges import ByteRange, parse_ranges
from dvcr.http.state import STATE, State, repository_of

log = structlog.get_logger(__name__)

_READ_BYTES = 2**20


async def head(request: web.Request) -> web.StreamResponse:
    """HEAD: the blob's size. A push relies on the answer, so the blob becomes fresh."""
    state, repository, digest = request.app[STATE], repository_of(request), _digest(request)
    size_bytes = await state.run(lambda: state.registry.blobs.confirm(repository, digest))
    response = web.StreamResponse(headers=_headers(digest))
    response.content_length = size_bytes
    return response


async def get(request: web.Request) -> web.StreamResponse:
    """GET: the blob, or ranges of it: one as it is, several as multipart/byteranges (RFC 9110, section 14.6)."""
    state, repository, digest = request.app[STATE], repository_of(request), _digest(request)
    if _quoted(digest) in request.headers.get("If-None-Match", ""):
        await state.run(lambda: state.registry.blobs.size_bytes(repository, digest))
        return web.Response(status=304, headers={"ETag": _quoted(digest)})
    wanted = request.headers.get("Range")
    if request.headers.get("If-Range", _quoted(digest)) != _quoted(digest):
        wanted = None

    def open_blob() -> tuple[int, tuple[ByteRange, ...], BinaryIO | str]:
        size_bytes = state.registry.blobs.size_bytes(repository, digest)
        ranges = parse_ranges(wanted, size_bytes)
        elsewhere = state.registry.blobs.url(digest) if len(ranges) <= 1 else None
        return size_bytes, ranges, elsewhere or state.registry.blobs.open(digest)

    size_bytes, ranges, reader = await state.run(open_blob)
    if isinstance(reader, str):
        return web.Response(status=307, headers={"Location": reader, "Docker-Content-Digest": str(digest)})
    with reader:
        response = web.StreamResponse(status=206 if ranges else 200, headers=_headers(digest))
        if len(ranges) == 1:
            response.headers["Content-Range"] = ranges[0].content_range(size_bytes)
        if len(ranges) <= 1:
            content: Sequence[bytes | ByteRange] = ranges or (ByteRange(0, size_bytes),)
        else:
            boundary = secrets.token_hex(16)
            response.headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
            content = list(_multipart(ranges, size_bytes, boundary))
        return await _send(request, response, state, reader, content)


async def delete(request: web.Request) -> web.Response:
    """DELETE: take the blob from the repository."""
    state, repository, digest = request.app[STATE], repository_of(request), _digest(request)
    await state.run(lambda: state.registry.blobs.delete(repository, digest))
    return web.Response(status=202)


def _multipart(ranges: Sequence[ByteRange], size_bytes: int, boundary: str) -> Iterator[bytes | ByteRange]:
    for part in ranges:
        head = f"Content-Type: application/octet-stream\r\nContent-Range: {part.content_range(size_bytes)}"
        yield f"\r\n--{boundary}\r\n{head}\r\n\r\n".encode()
        yield part
    yield f"\r\n--{boundary}--\r\n".encode()


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    state: State,
    reader: BinaryIO,
    content: Sequence[bytes | ByteRange],
) -> web.StreamResponse:
    """Answer with `content`, text as it is and ranges from `reader`."""
    response.content_length = sum(part.length if isinstance(part, ByteRange) else len(part) for part in content)
    await response.prepare(request)
    transport = request.transport
    try:
        for part in content:
            if isinstance(part, bytes):
                await response.write(part)
            elif state.registry.blobs.are_files and part.length and transport is not None:
                # The kernel moves the bytes: three times what goes through Python.
                sent = await asyncio.get_running_loop().sendfile(transport, reader, part.start, part.length)
                _check_whole(request, part, sent)
            else:
                await _copy(request, response, state, reader, part)
        await response.write_eof()
    except (ConnectionError, OSError, DvcrError) as exc:
        # The headers are out: all that is left to say is that the answer is not whole.
        if not isinstance(exc, ConnectionError):
            log.exception("blob not sent whole", path=request.path)
        if transport is not None:
            transport.abort()
    return response


async def _copy(
    request: web.Request, response: web.StreamResponse, state: State, reader: BinaryIO, part: ByteRange
) -> None:
    await state.run(partial(reader.seek, part.start))
    rest = part.length
    while rest:
        data = await state.run(partial(reader.read, min(_READ_BYTES, rest)))
        if not data:
            _check_whole(request, part, part.length - rest)
        await response.write(data)
        rest -= len(data)


def _check_whole(request: web.Request, part: ByteRange, sent_bytes: int) -> None:
    if sent_bytes != part.length:
        raise StorageError(f"{request.path} ended {part.length - sent_bytes} bytes early")


def _digest(request: web.Request) -> Digest:
    return Digest.parse(request.match_info["digest"])


def _quoted(digest: Digest) -> str:
    return f'"{digest}"'


def _headers(digest: Digest) -> dict[str, str]:
    return {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": str(digest),
        "ETag": _quoted(digest),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
    }
