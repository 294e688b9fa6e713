"""A small NBD client, for exports that QEMU serves: reads, what is allocated, and having ranges copied up."""

import contextlib
import socket
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from converter.nbd import protocol
from converter.nbd.connection import Connection, DisconnectError
from converter.nbd.protocol import Chunk, Command, HandshakeFlag, Info, Option, OptionReply
from dvcr.errors import StorageError

TIMEOUT_S = 300.0
"""Longest silence of the server: what it serves may wait for a registry."""
READ_BYTES = 4 * 2**20
_MAX_STATUS_BYTES = 2**31
_HANDSHAKE_FLAGS = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES


class NbdClient:
    """A connection to one export. Blocking, and not for several threads at once.

    Every method raises StorageError, retryable, where the server refuses, fails, or goes away.
    """

    def __init__(self, sock: socket.socket, export: str, contexts: Sequence[str] = ()) -> None:
        """Take the connected socket over, and choose the export, with these metadata contexts."""
        self._sock = sock
        self._connection = Connection(sock)
        self._connection.set_timeout(TIMEOUT_S)
        self._contexts: dict[str, int] = {}
        self._cookie = 0
        self.size_bytes = 0
        try:
            self._negotiate(export, contexts)
        except (DisconnectError, struct.error) as exc:
            raise _lost(exc) from exc

    @classmethod
    def connect(cls, path: Path, export: str, contexts: Sequence[str] = ()) -> Self:
        """To the server at that unix socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
            return cls(sock, export, contexts)
        except OSError as exc:
            sock.close()
            raise _lost(exc) from exc
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """Leave. Idempotent; from another thread it ends what waits for the server."""
        with contextlib.suppress(OSError):  # the server was faster
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def read(self, offset_bytes: int, length_bytes: int) -> bytearray:
        """Exactly those bytes."""
        data = bytearray(length_bytes)
        view = memoryview(data)
        for at in range(0, length_bytes, READ_BYTES):
            piece = view[at : at + READ_BYTES]
            self._send(Command.READ, offset_bytes + at, len(piece))
            self._reply(piece, offset_bytes + at)
        return data

    def extents(self, context: str, offset_bytes: int, length_bytes: int) -> Iterator[tuple[int, int]]:
        """The range as runs of a length and the context's number for it."""
        end = offset_bytes + length_bytes
        while offset_bytes < end:
            self._send(Command.BLOCK_STATUS, offset_bytes, min(end - offset_bytes, _MAX_STATUS_BYTES))
            runs = self._reply(context=self._contexts[context])
            if not runs:
                raise StorageError("the NBD server tells nothing of a range", retryable=True)
            for length, value in runs:
                length = min(length, end - offset_bytes)
                if length:
                    yield length, value
                    offset_bytes += length

    def cache(self, ranges: Iterable[tuple[int, int]], at_once: int) -> Iterator[int]:
        """Have QEMU copy the ranges, offset and length, up into the node that it serves, several at once; a length
        whenever one is done. No byte of them passes through here. As the protocol has it, a hint: others ignore it."""
        under_way: deque[int] = deque()
        for offset_bytes, length_bytes in ranges:
            self._send(Command.CACHE, offset_bytes, length_bytes)
            under_way.append(length_bytes)
            if len(under_way) >= at_once:
                self._reply()
                yield under_way.popleft()
        while under_way:
            self._reply()
            yield under_way.popleft()

    def flush(self) -> None:
        """Return once everything that was written is durable."""
        self._send(Command.FLUSH, 0, 0)
        self._reply()

    def _send(self, command: Command, offset_bytes: int, length_bytes: int) -> None:
        self._cookie += 1
        request = (protocol.REQUEST_MAGIC, 0, command, self._cookie, offset_bytes, length_bytes)
        try:
            self._connection.send(protocol.REQUEST.pack(*request))
        except DisconnectError as exc:
            raise _lost(exc) from exc

    def _reply(
        self, into: memoryview | None = None, offset_bytes: int = 0, context: int = 0
    ) -> list[tuple[int, int]] | None:
        """Take one whole reply: data into the buffer, or the runs of a block status."""
        try:
            return self._take_reply(into, offset_bytes, context)
        except (DisconnectError, struct.error) as exc:
            raise _lost(exc) from exc

    def _take_reply(self, into: memoryview | None, offset_bytes: int, context: int) -> list[tuple[int, int]] | None:
        runs: list[tuple[int, int]] | None = None
        while True:
            (magic,) = struct.unpack(">I", self._connection.receive(4))
            if magic == protocol.SIMPLE_REPLY_MAGIC:
                error, _ = struct.unpack(">IQ", self._connection.receive(12))
                if error:
                    raise _refused(error, "")
                if into is not None:
                    self._connection.receive_into(into)
                return runs
            if magic != protocol.STRUCTURED_REPLY_MAGIC:
                raise DisconnectError("no NBD reply")
            flags, kind, _, length = struct.unpack(">HHQI", self._connection.receive(16))
            if kind == Chunk.OFFSET_DATA and into is not None:
                (at,) = struct.unpack(">Q", self._connection.receive(8))
                start = at - offset_bytes
                if start < 0 or start + length - 8 > len(into):
                    raise DisconnectError("data that nobody asked for")
                self._connection.receive_into(into[start : start + length - 8])
            elif kind == Chunk.OFFSET_HOLE and into is not None:
                self._connection.receive(length)  # the buffer was zero from the beginning
            else:
                payload = self._connection.receive(min(length, READ_BYTES))
                if kind & protocol.CHUNK_ERROR:
                    error, text = struct.unpack_from(">IH", payload)
                    raise _refused(error, payload[6 : 6 + text].decode(errors="replace"))
                if kind == Chunk.BLOCK_STATUS and struct.unpack_from(">I", payload)[0] == context:
                    runs = [(run, value) for run, value in struct.iter_unpack(">II", payload[4:])]
            if flags & protocol.CHUNK_DONE:
                return runs

    def _negotiate(self, export: str, contexts: Sequence[str]) -> None:
        magic, option_magic, flags = protocol.GREETING.unpack(self._connection.receive(protocol.GREETING.size))
        if (magic, option_magic) != (protocol.INIT_MAGIC, protocol.OPTION_MAGIC) or not flags & _HANDSHAKE_FLAGS:
            raise DisconnectError("no NBD server")
        self._connection.send(protocol.CLIENT_FLAGS.pack(flags & _HANDSHAKE_FLAGS))
        name = struct.pack(">I", len(export.encode())) + export.encode()
        self._option(Option.STRUCTURED_REPLY, b"")
        if contexts:
            queries = b"".join(struct.pack(">I", len(text)) + text.encode() for text in contexts)
            for kind, data in self._option(Option.SET_META_CONTEXT, name + struct.pack(">I", len(contexts)) + queries):
                if kind == OptionReply.META_CONTEXT:
                    (number,) = struct.unpack_from(">I", data)
                    self._contexts[data[4:].decode()] = number
            missing = set(contexts) - set(self._contexts)
            if missing:
                raise DisconnectError(f"the NBD server does not offer {', '.join(sorted(missing))}")
        for kind, data in self._option(Option.GO, name + struct.pack(">H", 0)):
            if kind == OptionReply.INFO and struct.unpack_from(">H", data)[0] == Info.EXPORT:
                _, self.size_bytes, _ = protocol.INFO_EXPORT.unpack(data)

    def _option(self, option: Option, data: bytes) -> list[tuple[int, bytes]]:
        self._connection.send(protocol.OPTION.pack(protocol.OPTION_MAGIC, option, len(data)) + data)
        replies: list[tuple[int, bytes]] = []
        while True:
            header = self._connection.receive(protocol.OPTION_REPLY.size)
            magic, echoed, kind, length = protocol.OPTION_REPLY.unpack(header)
            if (magic, echoed) != (protocol.OPTION_REPLY_MAGIC, option) or length > READ_BYTES:
                raise DisconnectError("no reply to an NBD option")
            payload = bytes(self._connection.receive(length))
            if kind == OptionReply.ACK:
                return replies
            if kind >= protocol.OPTION_ERROR:
                raise DisconnectError(f"option {option.name} was refused: {payload.decode(errors='replace') or kind}")
            replies.append((kind, payload))


def _lost(cause: Exception) -> StorageError:
    return StorageError(f"the NBD server does not answer: {cause}", retryable=True)


def _refused(error: int, text: str) -> StorageError:
    return StorageError(f"the NBD server cannot do that: {text or f'error {error}'}", retryable=True)
