"""Joining this process's own descriptors to a way to a machine: the terminal to its console, or a pipe to a port."""

import asyncio
import os
import sys
import termios
import threading
import tty
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp

ESCAPE = b"\x1d"  # Ctrl-]
READ_BYTES = 64 * 1024
MAX_WAITING_PIECES = 16


async def attach(socket: aiohttp.ClientWebSocketResponse, input_fd: int = 0, output_fd: int = 1) -> None:
    """Join the two descriptors to a console until the machine ends or the user leaves with Ctrl-].

    A terminal is raw meanwhile and restored at the end. Input that is no terminal is sent as it is, Ctrl-] included;
    when it ends, output goes on.
    """
    async with socket:
        with _raw(input_fd) as interactive:
            await _first_of(_show(socket, output_fd), _send(socket, input_fd, escape=interactive))


async def pipe(socket: aiohttp.ClientWebSocketResponse, input_fd: int = 0, output_fd: int = 1) -> None:
    """Join the two descriptors to a stream until the other side ends it; the end of input is told to it."""
    async with socket:
        await _first_of(_show(socket, output_fd), _send(socket, input_fd, tell_end=True))


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Until one of them is done; what it raises goes through, the others are ended."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            with suppress(ConnectionError):  # the other side is gone: that is an end as any other
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _show(socket: aiohttp.ClientWebSocketResponse, output_fd: int) -> None:
    """Print what comes, up to the end of the stream."""
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            if not message.data:
                return
            await asyncio.to_thread(_write_all, output_fd, message.data)


async def _send(
    socket: aiohttp.ClientWebSocketResponse, input_fd: int, *, escape: bool = False, tell_end: bool = False
) -> None:
    """Pass input on; returns when the user leaves, never at the end of input."""
    pieces = _read_in_thread(input_fd)
    while data := await pieces.get():
        kept, left, _ = data.partition(ESCAPE) if escape else (data, b"", b"")
        if kept:
            await socket.send_bytes(kept)
        if left:
            return
    if tell_end:
        await socket.send_bytes(b"")
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
