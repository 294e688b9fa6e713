"""Passing a request on to another server, and bytes between websockets and streams.

A binary message is a piece of a byte stream; an empty one says that the stream has ended in this direction, which a
websocket cannot say otherwise: it is only closed as a whole.
"""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, web

from dvcr.errors import DvcrError

PIECE_BYTES = 64 * 1024
HEARTBEAT_S = 20
CONNECT_TIMEOUT_S = 10

Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse
# What a peer may say; others are only what an endpoint notes for itself (RFC 6455 §7.4.1).
_SENDABLE_CODES = frozenset({*range(1000, 1004), *range(1007, 1012), *range(3000, 5000)})


@dataclass(frozen=True)
class Upstream:
    """A URL (http or https, also for websockets) and how to speak to its server."""

    url: str
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    """What the server's certificate must be for, if that is not the URL's host."""
    headers: Sequence[tuple[str, str]] = ()
    proxy: str | None = None


class RefusedError(DvcrError):
    """The other server answered with an error, which `body` tells in its own words."""

    default_reason = "Refused"

    def __init__(self, status: int, body: bytes, content_type: str) -> None:
        super().__init__(f"answered {status}", retryable=status in (409, 429) or status >= 500)
        self.status = status
        self.body = body
        self.content_type = content_type


class UnreachableError(DvcrError):
    """The other server does not answer."""

    default_reason = "Unreachable"


def new_session() -> aiohttp.ClientSession:
    """A session for the functions below, whose errors are RefusedError. Call with a running event loop."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
    return aiohttp.ClientSession(timeout=timeout, raise_for_status=_raise_refused, trust_env=False)


async def connect(session: aiohttp.ClientSession, upstream: Upstream) -> aiohttp.ClientWebSocketResponse:
    """A websocket to the server. Raises RefusedError or UnreachableError."""
    try:
        return await session.ws_connect(
            upstream.url,
            headers=upstream.headers,
            ssl=upstream.tls or True,
            server_hostname=upstream.server_name,
            proxy=upstream.proxy,
            heartbeat=HEARTBEAT_S,
        )
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise UnreachableError(f"no answer from {upstream.url}: {exc}", retryable=True) from exc


async def pass_on(request: web.Request, session: aiohttp.ClientSession, upstream: Upstream) -> web.StreamResponse:
    """Answer a GET with what the other server answers; a websocket is joined to one of its own there.

    Raises RefusedError or UnreachableError before anything was answered.
    """
    if request.headers.get("Upgrade", "").lower() == "websocket":
        async with await connect(session, upstream) as theirs:
            ours = web.WebSocketResponse(heartbeat=HEARTBEAT_S, compress=False)
            await ours.prepare(request)
            await join_sockets(ours, theirs)
        return ours
    try:
        async with session.get(
            upstream.url,
            headers=upstream.headers,
            ssl=upstream.tls or True,
            server_hostname=upstream.server_name,
            proxy=upstream.proxy,
        ) as answer:
            response = web.StreamResponse(headers={"Content-Type": answer.headers.get("Content-Type", "")})
            response.content_length = answer.content_length
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
    except (aiohttp.ClientConnectionError, TimeoutError) as exc:
        raise UnreachableError(f"no answer from {upstream.url}: {exc}", retryable=True) from exc
    await response.write_eof()
    return response


async def join_sockets(ours: Socket, theirs: Socket) -> None:
    """Pass messages both ways until one of them is closed; then the other is too, for the same reason."""
    await asyncio.gather(_pass_messages(ours, theirs), _pass_messages(theirs, ours))


async def join_stream(socket: Socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes both ways until both directions have ended or one side is gone; then close both sides."""
    ended: set[str] = set()

    async def end(direction: str) -> None:
        ended.add(direction)
        if len(ended) == 2:
            await socket.close()

    async def outward() -> None:
        try:
            while data := await reader.read(PIECE_BYTES):
                await socket.send_bytes(data)
            await socket.send_bytes(b"")
            await end("outward")
        except OSError:
            # Whichever side broke, the other learns it by being closed.
            await socket.close()

    sending = asyncio.create_task(outward())
    try:
        async for message in socket:
            if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                continue
            data = message.data.encode() if isinstance(message.data, str) else message.data
            if data:
                writer.write(data)
                await writer.drain()
            else:
                if writer.can_write_eof():
                    writer.write_eof()
                await end("inward")
    except OSError:
        await socket.close()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _pass_messages(source: Socket, target: Socket) -> None:
    with suppress(ConnectionError):  # the target is gone, which its own loop notices
        async for message in source:
            if message.type is WSMsgType.BINARY:
                await target.send_bytes(message.data)
            elif message.type is WSMsgType.TEXT:
                await target.send_str(message.data)
    code = source.close_code
    await target.close(code=code if code is not None and code in _SENDABLE_CODES else WSCloseCode.GOING_AWAY)


async def _raise_refused(response: aiohttp.ClientResponse) -> None:
    if response.status >= 400:
        raise RefusedError(response.status, await response.read(), response.content_type)
