"""Pulling and deleting blobs (distribution-spec, "Pulling blobs", "Deleting Blobs")."""

import asyncio
from functools import partial
from typing import BinaryIO

import structlog
from aiohttp import web

from dvcr.digest import Digest
from dvcr.errors import DvcrError, StorageError
from dvcr.http.ranges import ByteRange, parse_range
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
    """GET: the blob, or one range of it."""
    state, repository, digest = request.app[STATE], repository_of(request), _digest(request)
    if _quoted(digest) in request.headers.get("If-None-Match", ""):
        await state.run(lambda: state.registry.blobs.size_bytes(repository, digest))
        return web.Response(status=304, headers={"ETag": _quoted(digest)})
    wanted = request.headers.get("Range")
    if request.headers.get("If-Range", _quoted(digest)) != _quoted(digest):
        wanted = None

    def open_blob() -> tuple[int, ByteRange | None, BinaryIO]:
        size_bytes = state.registry.blobs.size_bytes(repository, digest)
        part = parse_range(wanted, size_bytes)
        return size_bytes, part, state.registry.blobs.open(digest)

    size_bytes, part, reader = await state.run(open_blob)
    with reader:
        response = web.StreamResponse(status=206 if part else 200, headers=_headers(digest))
        if part:
            response.headers["Content-Range"] = part.content_range(size_bytes)
        return await _send(request, response, state, reader, part or ByteRange(0, size_bytes))


async def delete(request: web.Request) -> web.Response:
    """DELETE: take the blob from the repository."""
    state, repository, digest = request.app[STATE], repository_of(request), _digest(request)
    await state.run(lambda: state.registry.blobs.delete(repository, digest))
    return web.Response(status=202)


async def _send(
    request: web.Request, response: web.StreamResponse, state: State, reader: BinaryIO, part: ByteRange
) -> web.StreamResponse:
    response.content_length = part.length
    await response.prepare(request)
    transport = request.transport
    try:
        if state.registry.blobs.are_files and part.length and transport is not None:
            # The kernel moves the bytes: three times what goes through Python.
            await asyncio.get_running_loop().sendfile(transport, reader, part.start, part.length)
        else:
            reader.seek(part.start)
            rest = part.length
            while rest:
                data = await state.run(partial(reader.read, min(_READ_BYTES, rest)))
                if not data:
                    raise StorageError(f"{request.path} ended {rest} bytes early")
                await response.write(data)
                rest -= len(data)
        await response.write_eof()
    except (ConnectionError, OSError, DvcrError) as exc:
        # The headers are out: all that is left to say is that the answer is not whole.
        if not isinstance(exc, ConnectionError):
            log.exception("blob not sent whole", path=request.path)
        if transport is not None:
            transport.abort()
    return response


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
