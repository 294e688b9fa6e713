"""Pulling and deleting blobs (distribution-spec, "Pulling blobs", "Deleting Blobs")."""

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import BinaryIO, TypeAlias

import structlog
from aiohttp import web

from dvcr.digest import Digest
from dvcr.errors import DvcrError, StorageError
from dvcr.http.ranges import ByteRange, parse_ranges
from dvcr.http.state import STATE, State, repository_of

log = structlog.get_logger(__name__)

_READ_BYTES = 2**20
# Up to here a file is hashed before its answer begins, past it while all but its end is being sent.
_HASHED_FIRST_BYTES = 4 * 2**20
_HELD_BACK_BYTES = 2**16

_Part: TypeAlias = bytes | ByteRange | Future[None]


async def head(request: web.Request) -> web.StreamResponse:
    """HEAD: the blob's size. A push relies on the answer, so the blob becomes fresh."""
    state, repository, digest = request.app[STATE], repository_of(request), _digest(request)
    size_bytes = state.registry.blobs.recall(repository, digest)
    if size_bytes is None:
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

    def open_blob() -> tuple[int, tuple[ByteRange, ...], BinaryIO | str, Future[None] | None]:
        size_bytes = state.registry.blobs.size_bytes(repository, digest)
        ranges = parse_ranges(wanted, size_bytes)
        elsewhere = state.registry.blobs.url(digest) if len(ranges) <= 1 else None
        if elsewhere:
            return size_bytes, ranges, elsewhere, None
        reader = state.registry.blobs.open(digest)
        verdict = _verdict(state, digest, reader, size_bytes, in_parts=bool(ranges))
        return size_bytes, ranges, reader, verdict

    size_bytes, ranges, reader, verdict = await state.run(open_blob)
    if isinstance(reader, str):
        return web.Response(status=307, headers={"Location": reader, "Docker-Content-Digest": str(digest)})
    with reader:
        response = web.StreamResponse(status=206 if ranges else 200, headers=_headers(digest))
        if len(ranges) == 1:
            response.headers["Content-Range"] = ranges[0].content_range(size_bytes)
        content: Sequence[_Part] = ranges or (ByteRange(0, size_bytes),)
        if verdict:
            begin = size_bytes - _HELD_BACK_BYTES
            content = (ByteRange(0, begin), verdict, ByteRange(begin, _HELD_BACK_BYTES))
        elif len(ranges) > 1:
            boundary = secrets.token_hex(16)
            response.headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
            content = list(_multipart(ranges, size_bytes, boundary))
        return await _send(request, response, reader, content, None if ranges else digest)


async def delete(request: web.Request) -> web.Response:
    """DELETE: take the blob from the repository."""
    state, repository, digest = request.app[STATE], repository_of(request), _digest(request)
    await state.run(lambda: state.registry.blobs.delete(repository, digest))
    return web.Response(status=202)


def _verdict(state: State, digest: Digest, reader: BinaryIO, size_bytes: int, *, in_parts: bool) -> Future[None] | None:
    """What says, before the last bytes of a file are sent, that it is whole; None if that is known.

    Raises BlobCorruptError for a small blob, which is hashed at once: its client gets a proper error. Of a large one
    nobody hashes all for the sake of a part.
    """
    verifier = state.registry.verifier
    if not state.registry.blobs.are_files:
        return None
    try:
        if verifier.trusts(digest, reader):
            return None
        if size_bytes > _HASHED_FIRST_BYTES:
            return None if in_parts else verifier.begin(digest, reader)
        verifier.check(digest, reader)
    except BaseException:
        reader.close()
        raise
    return None


def _multipart(ranges: Sequence[ByteRange], size_bytes: int, boundary: str) -> Iterator[bytes | ByteRange]:
    for part in ranges:
        head = f"Content-Type: application/octet-stream\r\nContent-Range: {part.content_range(size_bytes)}"
        yield f"\r\n--{boundary}\r\n{head}\r\n\r\n".encode()
        yield part
    yield f"\r\n--{boundary}--\r\n".encode()


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    reader: BinaryIO,
    content: Sequence[_Part],
    digest: Digest | None,
) -> web.StreamResponse:
    """Answer with `content`: text as it is, ranges from `reader`, and nothing more before a verdict is good.

    `digest` is that of all ranges together, to check while they are sent where no verdict is among them.
    """
    response.content_length = sum(
        part.length if isinstance(part, ByteRange) else len(part) for part in content if not isinstance(part, Future)
    )
    await response.prepare(request)
    state, transport = request.app[STATE], request.transport
    are_files = state.registry.blobs.are_files
    # Under TLS asyncio's sendfile reads 16 KiB at a time, each by a trip to a thread.
    by_kernel = are_files and request.get_extra_info("sslcontext") is None
    try:
        for part in content:
            if isinstance(part, bytes):
                await response.write(part)
            elif isinstance(part, Future):
                await asyncio.shield(asyncio.wrap_future(part))  # others wait for it too
            elif by_kernel and part.length and transport is not None:
                # Three times what goes through Python.
                if transport.is_closing():
                    raise ConnectionResetError("the client has left")
                sent = await asyncio.get_running_loop().sendfile(transport, reader, part.start, part.length)
                _check_whole(request, part, sent)
            else:
                await _copy(request, response, reader, part, None if are_files else digest)
        await response.write_eof()
    except (ConnectionError, OSError, DvcrError) as exc:
        # The headers are out: all that is left to say is that the answer is not whole.
        if not isinstance(exc, ConnectionError):
            log.exception("blob not sent whole", path=request.path)
        if transport is not None:
            transport.abort()
    return response


async def _copy(
    request: web.Request, response: web.StreamResponse, reader: BinaryIO, part: ByteRange, digest: Digest | None
) -> None:
    state, hasher = request.app[STATE], digest.hasher() if digest else None

    def read(length: int) -> bytes:
        data = reader.read(length)
        if hasher:
            hasher.update(data)
        return data

    await state.run(partial(reader.seek, part.start))
    rest = part.length
    while rest:
        data = await state.run(partial(read, min(_READ_BYTES, rest)))
        if not data:
            _check_whole(request, part, part.length - rest)
        if digest and hasher and len(data) == rest and (actual := hasher.digest()) != digest:
            raise await state.run(partial(state.registry.verifier.refuse, digest, actual))
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
