"""A small NBD client that can also misbehave."""

import socket
import struct
from pathlib import Path
from typing import Self

from converter.nbd import protocol


class NbdClient:
    """Speaks fixed newstyle over a socket. Every receive has a deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(10)
        self.size_bytes = 0
        self.flags = 0
        self._cookie = 0

    @classmethod
    def dial(cls, path: Path) -> Self:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(str(path))
        return cls(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def receive(self, length: int) -> bytes:
        out = b""
        while len(out) < length:
            piece = self.sock.recv(length - len(out))
            if not piece:
                raise EOFError
            out += piece
        return out

    def greet(self, flags: int = 3) -> None:
        magic, option_magic, _ = protocol.GREETING.unpack(self.receive(protocol.GREETING.size))
        assert (magic, option_magic) == (protocol.INIT_MAGIC, protocol.OPTION_MAGIC)
        self.sock.sendall(struct.pack(">I", flags))

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Send an option; the replies up to an ACK or an error."""
        self.sock.sendall(protocol.OPTION.pack(protocol.OPTION_MAGIC, option, len(data)) + data)
        replies = []
        while True:
            magic, echoed, kind, length = protocol.OPTION_REPLY.unpack(self.receive(protocol.OPTION_REPLY.size))
            assert (magic, echoed) == (protocol.OPTION_REPLY_MAGIC, option)
            replies.append((kind, self.receive(length)))
            if kind == protocol.OptionReply.ACK or kind >= 2**31:
                return replies

    def go(self, name: str) -> None:
        data = struct.pack(">I", len(name)) + name.encode() + struct.pack(">HH", 1, protocol.Info.BLOCK_SIZE)
        replies = self.option(protocol.Option.GO, data)
        assert replies[-1][0] == protocol.OptionReply.ACK, replies
        _, self.size_bytes, self.flags = protocol.INFO_EXPORT.unpack(replies[0][1])

    def set_allocation(self, name: str) -> None:
        assert self.option(protocol.Option.STRUCTURED_REPLY) == [(protocol.OptionReply.ACK, b"")]
        query = protocol.BASE_ALLOCATION.encode()
        data = struct.pack(">I", len(name)) + name.encode() + struct.pack(">II", 1, len(query)) + query
        assert len(self.option(protocol.Option.SET_META_CONTEXT, data)) == 2

    def send(self, command: int, offset: int, length: int, data: bytes = b"", flags: int = 0) -> int:
        self._cookie += 1
        request = protocol.REQUEST.pack(protocol.REQUEST_MAGIC, flags, command, self._cookie, offset, length)
        self.sock.sendall(request + data)
        return self._cookie

    def simple(self, command: int, offset: int, length: int, data: bytes = b"", flags: int = 0) -> tuple[int, bytes]:
        """A request and its simple reply: error and data."""
        cookie = self.send(command, offset, length, data, flags)
        magic, error, echoed = protocol.SIMPLE_REPLY.unpack(self.receive(protocol.SIMPLE_REPLY.size))
        assert (magic, echoed) == (protocol.SIMPLE_REPLY_MAGIC, cookie)
        return error, self.receive(length) if command == protocol.Command.READ and not error else b""

    def structured(self, command: int, offset: int, length: int, flags: int = 0) -> list[tuple[int, bytes]]:
        """A request and the chunks of its structured reply: type and payload."""
        cookie = self.send(command, offset, length, b"", flags)
        chunks = []
        while True:
            header = protocol.STRUCTURED_REPLY.unpack(self.receive(protocol.STRUCTURED_REPLY.size))
            magic, chunk_flags, kind, echoed, size = header
            assert (magic, echoed) == (protocol.STRUCTURED_REPLY_MAGIC, cookie)
            chunks.append((kind, self.receive(size)))
            if chunk_flags & protocol.CHUNK_DONE:
                return chunks
