"""The transmission phase of one NBD client: requests in, replies out, one at a time."""

import struct
from collections.abc import Callable

from converter.nbd import protocol
from converter.nbd.connection import Buffer, Connection, DisconnectError
from converter.nbd.handshake import ALLOCATION_ID, MAX_REQUEST_BYTES, Negotiated
from converter.nbd.protocol import Chunk, Command, CommandFlag, Error
from dvcr.errors import DvcrError, NoSpaceError

# Payloads pass through the server in pieces of this size, so a client cannot make it hold more.
PIECE_BYTES = 4 * 2**20
MAX_EXTENTS = 4096

_ALLOWED_FLAGS: dict[int, int] = {
    Command.WRITE_ZEROES: CommandFlag.NO_HOLE,
    Command.BLOCK_STATUS: CommandFlag.REQ_ONE,
}


class _RefusedError(Exception):
    def __init__(self, error: Error, message: str) -> None:
        super().__init__(message)
        self.error = error


class Session:
    """Serves one client until it leaves. Errors that the export raises go to `on_error` and to the client as EIO."""

    def __init__(self, connection: Connection, negotiated: Negotiated, on_error: Callable[[DvcrError], None]) -> None:
        self._connection = connection
        self._agreed = negotiated
        self._export = negotiated.export
        self._on_error = on_error
        self._buffer = bytearray()

    def serve(self) -> None:
        """Answer requests until the client disconnects; raises DisconnectError if it does so without a word."""
        header = bytearray(protocol.REQUEST.size)
        view = memoryview(header)
        while True:
            self._connection.receive_into(view)
            magic, flags, command, cookie, offset, length = protocol.REQUEST.unpack(header)
            if magic != protocol.REQUEST_MAGIC:
                raise DisconnectError("not an NBD request")
            if command == Command.DISCONNECT:
                return
            try:
                self._check(command, flags, offset, length)
            except _RefusedError as exc:
                if command == Command.WRITE:
                    self._drain(length)
                self._send_error(command, cookie, exc.error, str(exc))
            else:
                self._answer(command, flags, cookie, offset, length)

    def _check(self, command: int, flags: int, offset: int, length: int) -> None:
        if command in (Command.READ, Command.WRITE) and length > MAX_REQUEST_BYTES:
            if command == Command.WRITE:
                raise DisconnectError(f"a write of {length} bytes is over the limit")
            raise _RefusedError(Error.EOVERFLOW, "the request is too long")
        if flags & ~_ALLOWED_FLAGS.get(command, 0):
            raise _RefusedError(Error.EINVAL, f"flags {flags:#x} are not supported")
        if command in (Command.WRITE, Command.WRITE_ZEROES, Command.TRIM):
            if self._agreed.writable is None:
                raise _RefusedError(Error.EPERM, "the export is read-only")
            if offset + length > self._export.size_bytes:
                raise _RefusedError(Error.ENOSPC, "the range ends past the export")
        elif command in (Command.READ, Command.BLOCK_STATUS):
            if not length or offset + length > self._export.size_bytes:
                raise _RefusedError(Error.EINVAL, "the range is empty or ends past the export")
            if command == Command.BLOCK_STATUS and not self._agreed.allocation:
                raise _RefusedError(Error.EINVAL, "base:allocation was not negotiated")
        elif command != Command.FLUSH:
            raise _RefusedError(Error.EINVAL, f"command {command} is not supported")

    def _answer(self, command: int, flags: int, cookie: int, offset: int, length: int) -> None:
        received = sent = 0
        try:
            if command == Command.READ:
                for at in range(offset, offset + length, PIECE_BYTES):
                    count = min(PIECE_BYTES, offset + length - at)
                    data = self._export.read(at, count)
                    assert len(data) == count, f"the export gave {len(data)} bytes for {count}"
                    self._send_data(cookie, offset, length, at, data)
                    sent += count
            elif command == Command.BLOCK_STATUS:
                status = self._block_status(offset, length, one=bool(flags & CommandFlag.REQ_ONE))
                self._send_chunk(cookie, Chunk.BLOCK_STATUS, protocol.CHUNK_DONE, status)
            else:
                writable = self._agreed.writable
                if command == Command.WRITE:
                    while received < length:
                        piece = self._receive_piece(length - received)
                        received += len(piece)
                        assert writable is not None
                        writable.write(offset + received - len(piece), piece)
                elif command == Command.WRITE_ZEROES and writable is not None:
                    writable.write_zeroes(offset, length)
                elif command == Command.FLUSH and writable is not None:
                    writable.flush()
                # A trim promises nothing, so leaving the bytes is an answer.
                self._connection.send(protocol.SIMPLE_REPLY.pack(protocol.SIMPLE_REPLY_MAGIC, 0, cookie))
        except DisconnectError:
            raise
        except Exception as exc:  # whatever an export raises must reach its owner, not kill a thread
            self._failed(exc)
            if command == Command.WRITE:
                self._drain(length - received)
            if sent and not self._agreed.structured:
                raise DisconnectError("a simple reply cannot take back its success") from exc
            error = Error.ENOSPC if isinstance(exc, NoSpaceError) else Error.EIO
            self._send_error(command, cookie, error, str(exc))

    def _failed(self, exc: Exception) -> None:
        if not isinstance(exc, DvcrError):
            wrapped = DvcrError(f"the export failed: {exc!r}")
            wrapped.__cause__ = exc
            exc = wrapped
        self._on_error(exc)

    def _block_status(self, offset: int, length: int, *, one: bool) -> bytes:
        runs: list[list[int]] = []
        for extent in self._export.extents(offset, length):
            state = protocol.STATE_HOLE | protocol.STATE_ZERO if extent.zero else 0
            if runs and runs[-1][1] == state:
                runs[-1][0] += extent.length_bytes
            elif len(runs) == (1 if one else MAX_EXTENTS):
                break
            else:
                runs.append([extent.length_bytes, state])
        return struct.pack(">I", ALLOCATION_ID) + b"".join(struct.pack(">II", *run) for run in runs)

    def _send_data(self, cookie: int, offset: int, length: int, at: int, data: Buffer) -> None:
        if self._agreed.structured:
            done = protocol.CHUNK_DONE if at + len(data) == offset + length else 0
            self._send_chunk(cookie, Chunk.OFFSET_DATA, done, struct.pack(">Q", at), data)
        elif at == offset:
            self._connection.send(protocol.SIMPLE_REPLY.pack(protocol.SIMPLE_REPLY_MAGIC, 0, cookie), data)
        else:
            self._connection.send(data)

    def _send_chunk(self, cookie: int, kind: Chunk, flags: int, *payload: Buffer) -> None:
        length = sum(map(len, payload))
        header = protocol.STRUCTURED_REPLY.pack(protocol.STRUCTURED_REPLY_MAGIC, flags, kind, cookie, length)
        self._connection.send(header, *payload)

    def _send_error(self, command: int, cookie: int, error: Error, message: str) -> None:
        if self._agreed.structured and command in (Command.READ, Command.BLOCK_STATUS):
            text = message.encode()[:512]
            payload = struct.pack(">IH", error, len(text)) + text
            self._send_chunk(cookie, Chunk.ERROR, protocol.CHUNK_DONE, payload)
        else:
            self._connection.send(protocol.SIMPLE_REPLY.pack(protocol.SIMPLE_REPLY_MAGIC, error, cookie))

    def _receive_piece(self, length: int) -> memoryview:
        length = min(length, PIECE_BYTES)
        if len(self._buffer) < length:
            self._buffer = bytearray(length)
        piece = memoryview(self._buffer)[:length]
        self._connection.receive_into(piece)
        return piece

    def _drain(self, length: int) -> None:
        while length > 0:
            length -= len(self._receive_piece(length))
