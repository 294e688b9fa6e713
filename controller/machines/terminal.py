"""The user's end of a machine's serial console: this terminal, joined to the launcher's websocket."""

import asyncio
import os
import ssl
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import aiohttp

from dvcr.errors import ResourceError

ESCAPE = b"\x1d"  # Ctrl-]
READ_BYTES = 4096
MAX_WAITING_PIECES = 16


async def attach(
    url: str,
    input_fd: int = 0,
    output_fd: int = 1,
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
) -> None:
    """Join the two descriptors to the console at `url` until the machine ends or the user leaves with Ctrl-].

    `server_name` is what the server's certificate must be for, if that is not the URL's host.

    A terminal is raw meanwhile and restored at the end. Input that is no terminal is sent as it is, Ctrl-] included;
    when it ends, output goes on. Raises ResourceError if the console does not answer.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            socket = await session.ws_connect(
                url, heartbeat=20, max_msg_size=0, ssl=tls or True, server_hostname=server_name
            )
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise ResourceError(
                f"the console at {url} does not answer: {exc}", reason="ConsoleUnavailable", retryable=True
            ) from exc
        async with socket:
            with _raw(input_fd) as interactive:
                show = asyncio.create_task(_show(socket, output_fd))
                send = asyncio.create_task(_send(socket, input_fd, interactive))
                await asyncio.wait((show, send), return_when=asyncio.FIRST_COMPLETED)
                for task in (show, send):
                    task.cancel()
                    with suppress(asyncio.CancelledError, ConnectionError):
                        await task


async def _show(socket: aiohttp.ClientWebSocketResponse, output_fd: int) -> None:
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            await asyncio.to_thread(_write_all, output_fd, message.data)


async def _send(socket: aiohttp.ClientWebSocketResponse, input_fd: int, interactive: bool) -> None:
    """Pass input on; returns when the user leaves, never at the end of input."""
    pieces = _read_in_thread(input_fd)
    while data := await pieces.get():
        kept, escape, _ = data.partition(ESCAPE) if interactive else (data, b"", b"")
        if kept:
            await socket.send_bytes(kept)
        if escape:
            return
    await asyncio.Event().wait()


def _read_in_thread(fd: int) -> "asyncio.Queue[bytes]":
    # A thread, because a file cannot be waited for by the event loop; a daemon, because a read cannot be ended.
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING_PIECES)

    def read() -> None:
        data = b"-"
        while data:
            try:
                data = os.read(fd, READ_BYTES)
            except OSError:  # a terminal that was closed
                data = b""
            # The loop is closed when the other side ended first.
            with suppress(RuntimeError):
                asyncio.run_coroutine_threadsafe(pieces.put(data), loop).result()

    threading.Thread(target=read, name="console-input", daemon=True).start()
    return pieces


@contextmanager
def _raw(fd: int) -> Iterator[bool]:
    """The terminal in raw mode; False, and nothing done, if `fd` is none."""
    if not os.isatty(fd):
        yield False
        return
    before = termios.tcgetattr(fd)
    print("connected; leave with Ctrl-]", file=sys.stderr)
    tty.setraw(fd)
    try:
        yield True
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        print(file=sys.stderr)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
