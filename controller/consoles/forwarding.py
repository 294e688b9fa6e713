"""Local ports that lead to a machine, through the machine API."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import aiohttp

from controller.relay import join_stream
from dvcr.errors import ConfigError, DvcrError, ResourceError

Open = Callable[[], Awaitable[aiohttp.ClientWebSocketResponse]]
"""Opens a new way to the machine; DvcrError where there is none."""

_MAX_PORT = 2**16 - 1


@dataclass(frozen=True)
class Mapping:
    """A local port (0: any free one) and the guest's port that it leads to."""

    local: int
    remote: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`LOCAL:REMOTE`, `:REMOTE` for any local port, or one number for both. ResourceError otherwise."""
        local, separator, remote = text.partition(":")
        remote = remote if separator else local
        if (local and not _is_port(local)) or not _is_port(remote):
            raise ResourceError(f"{text!r} names no ports; write LOCAL:REMOTE, such as 8080:80, or one port for both")
        return cls(int(local or 0), int(remote))


@asynccontextmanager
async def listening(address: str, port: int, open_way: Open, report: Callable[[str], None]) -> AsyncIterator[int]:
    """Lead every connection to `address`:`port` to the machine while the context is entered; gives the port.

    What one connection meets is reported and ends that one. ConfigError if the address cannot be had.
    """
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        task.add_done_callback(connections.discard)
        try:
            socket = await open_way()
        except DvcrError as exc:
            report(exc.message)
            writer.close()
            return
        async with socket:
            await join_stream(socket, reader, writer)

    try:
        server = await asyncio.start_server(serve, address, port)
    except OSError as exc:
        raise ConfigError(f"cannot listen on {address}:{port}: {exc.strerror}; give another port") from exc
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


def parse_mappings(texts: Sequence[str]) -> list[Mapping]:
    """All mappings of a command line."""
    return [Mapping.parse(text) for text in texts]


def _is_port(text: str) -> bool:
    return text.isdigit() and 0 < int(text) <= _MAX_PORT
