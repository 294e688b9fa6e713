"""Request bodies, from the socket into threads, with bounded memory."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from dvcr.http.drain import close_after
from dvcr.http.errors import IdleError, TooLargeError
from dvcr.http.state import STATE

# One batch is written and hashed while the next one arrives: at most two are in memory for a request, and what the
# stream buffers. Most bodies are one chunk of a disk image, which then takes a single trip to a thread.
BATCH_BYTES = 4 * 2**20

_WAITS = web.RequestKey("waits", bool)

T = TypeVar("T")


async def put_off_invitation(request: web.Request) -> None:
    """The answer to `Expect: 100-continue` (RFC 9110, section 10.1.1): the client waits until its body is wanted.

    Who is refused before that has sent none of it.
    """
    if request.headers["Expect"].lower() != "100-continue":
        raise web.HTTPExpectationFailed
    request[_WAITS] = True


async def end_uninvited(request: web.Request, response: web.StreamResponse) -> None:
    """Close the connection after the answer where a body may follow that nobody has asked for."""
    if request.get(_WAITS):
        close_after(response)


async def _invite(request: web.Request) -> None:
    if request.get(_WAITS):
        request[_WAITS] = False
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer, which comes later


async def receive(request: web.Request, append: Callable[[bytes], None], finish: Callable[[], T]) -> T:
    """Feed the body to `append`, call `finish` after its last byte, and give its result. Both run in threads.

    When this returns or raises, no call is under way any more. Raises IdleError if the client falls silent.
    """
    state = request.app[STATE]
    loop = asyncio.get_running_loop()
    under_way: asyncio.Future[None] | None = None
    batch: list[bytes] = []
    batch_bytes = 0

    def write(parts: list[bytes]) -> None:
        for part in parts:
            append(part)

    def write_and_finish(parts: list[bytes]) -> T:
        write(parts)
        with state.metrics.storage_seconds.time():
            return finish()

    await _invite(request)
    try:
        while part := await _next_part(request, state.settings.upload_idle_timeout_s):
            batch.append(part)
            batch_bytes += len(part)
            if batch_bytes >= BATCH_BYTES:
                if under_way:
                    await under_way
                under_way = loop.run_in_executor(state.bodies, write, batch)
                batch, batch_bytes = [], 0
        if under_way:
            await under_way
        under_way = None
        return await _completed(loop.run_in_executor(state.bodies, write_and_finish, batch))
    except (ConnectionError, IdleError, web.RequestPayloadError):
        # The session goes on from here later: keep what has come.
        if under_way:
            await under_way
            under_way = None
        await _completed(loop.run_in_executor(state.bodies, write, batch))
        raise
    finally:
        if under_way and not under_way.done():
            await asyncio.wait([under_way])


async def read_all(request: web.Request, limit_bytes: int) -> bytes:
    """The whole body; raises TooLargeError past the limit, before more is read."""
    parts: list[bytes] = []
    size_bytes = 0
    if (request.content_length or 0) > limit_bytes:
        raise TooLargeError(f"the body has {request.content_length} bytes; the limit is {limit_bytes}")
    await _invite(request)
    while part := await _next_part(request, request.app[STATE].settings.upload_idle_timeout_s):
        size_bytes += len(part)
        if size_bytes > limit_bytes:
            raise TooLargeError(f"the body has more than {limit_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


async def _next_part(request: web.Request, timeout_s: float) -> bytes:
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                part, _ = await request.content.readchunk()
                if part or request.content.at_eof():
                    return part
    except TimeoutError as exc:
        raise IdleError(f"no byte of the body came for {timeout_s:g} s; continue the upload from its Range") from exc


async def _completed(future: asyncio.Future[T]) -> T:
    """Wait for a call in a thread to its end, also when the request is cancelled meanwhile."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.done():
            await asyncio.wait([future])
        raise
