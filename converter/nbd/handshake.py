"""The fixed newstyle handshake: a client names the export it wants and what it understands."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from converter.nbd import protocol
from converter.nbd.connection import Connection, DisconnectError
from converter.nbd.export import ReadableExport, WritableExport
from converter.nbd.protocol import ExportFlag, HandshakeFlag, Info, Option, OptionReply

MAX_OPTIONS = 64
MAX_OPTION_BYTES = 16 * 1024
MAX_REQUEST_BYTES = 32 * 2**20
ALLOCATION_ID = 1

Exports = Mapping[str, "ReadableExport | WritableExport"]


@dataclass
class Negotiated:
    """What a client and the server agreed on."""

    export: ReadableExport | WritableExport
    writable: WritableExport | None
    structured: bool
    allocation: bool


@dataclass
class _State:
    no_zeroes: bool = False
    structured: bool = False
    allocation_of: str | None = None


def negotiate(connection: Connection, exports: Exports) -> Negotiated | None:
    """Lead the handshake; None if the client ended it without choosing an export.

    Raises DisconnectError for a client that breaks the protocol or exceeds the limits above.
    """
    offered = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
    connection.send(protocol.GREETING.pack(protocol.INIT_MAGIC, protocol.OPTION_MAGIC, offered))
    (flags,) = protocol.CLIENT_FLAGS.unpack(connection.receive(protocol.CLIENT_FLAGS.size))
    if flags & ~offered or not flags & HandshakeFlag.FIXED_NEWSTYLE:
        raise DisconnectError(f"client flags {flags:#x} are not supported")
    state = _State(no_zeroes=bool(flags & HandshakeFlag.NO_ZEROES))
    for _ in range(MAX_OPTIONS):
        magic, option, length = protocol.OPTION.unpack(connection.receive(protocol.OPTION.size))
        if magic != protocol.OPTION_MAGIC or length > MAX_OPTION_BYTES:
            raise DisconnectError("not an NBD option, or one that is too long")
        data = bytes(connection.receive(length))
        if option == Option.ABORT:
            _reply(connection, option, OptionReply.ACK)
            return None
        if option == Option.EXPORT_NAME:
            return _export_name(connection, exports, data, state)
        if option in (Option.GO, Option.INFO):
            chosen = _info(connection, exports, option, data, state)
            if chosen is not None and option == Option.GO:
                return chosen
        elif option == Option.LIST:
            _list(connection, exports, data)
        elif option == Option.STRUCTURED_REPLY:
            state.structured = not data or state.structured
            _reply(connection, option, OptionReply.ERR_INVALID if data else OptionReply.ACK)
        elif option in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
            _meta_context(connection, exports, option, data, state)
        else:
            _reply(connection, option, OptionReply.ERR_UNSUP)
    raise DisconnectError("too many options")


def export_flags(export: ReadableExport | WritableExport) -> int:
    """Transmission flags: what the export can do."""
    flags = ExportFlag.HAS_FLAGS | ExportFlag.CAN_MULTI_CONN
    if _writable(export) is None:
        return flags | ExportFlag.READ_ONLY
    return flags | ExportFlag.SEND_FLUSH | ExportFlag.SEND_TRIM | ExportFlag.SEND_WRITE_ZEROES


def _writable(export: ReadableExport | WritableExport) -> WritableExport | None:
    return export if hasattr(export, "write") else None  # type: ignore[return-value]  # write is what tells them apart


def _negotiated(export: ReadableExport | WritableExport, name: str, state: _State) -> Negotiated:
    return Negotiated(export, _writable(export), state.structured, state.structured and state.allocation_of == name)


def _reply(connection: Connection, option: int, kind: OptionReply, data: bytes = b"") -> None:
    connection.send(protocol.OPTION_REPLY.pack(protocol.OPTION_REPLY_MAGIC, option, kind, len(data)) + data)


def _export_name(connection: Connection, exports: Exports, data: bytes, state: _State) -> Negotiated:
    name = data.decode(errors="replace")
    export = exports.get(name)
    if export is None:
        # This option has no error reply; closing is the only answer.
        raise DisconnectError(f"there is no export {name[:80]!r}")
    zeroes = b"" if state.no_zeroes else bytes(124)
    connection.send(protocol.EXPORT_NAME_REPLY.pack(export.size_bytes, export_flags(export)) + zeroes)
    return _negotiated(export, name, state)


def _info(connection: Connection, exports: Exports, option: int, data: bytes, state: _State) -> Negotiated | None:
    try:
        name, rest = _take_text(data)
        (count,) = struct.unpack_from(">H", rest)
        wanted = struct.unpack(f">{count}H", rest[2:])
    except (struct.error, ValueError):
        _reply(connection, option, OptionReply.ERR_INVALID)
        return None
    export = exports.get(name)
    if export is None:
        _reply(connection, option, OptionReply.ERR_UNKNOWN)
        return None
    info = protocol.INFO_EXPORT.pack(Info.EXPORT, export.size_bytes, export_flags(export))
    _reply(connection, option, OptionReply.INFO, info)
    if Info.BLOCK_SIZE in wanted:
        sizes = protocol.INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, 1, 65536, MAX_REQUEST_BYTES)
        _reply(connection, option, OptionReply.INFO, sizes)
    _reply(connection, option, OptionReply.ACK)
    return _negotiated(export, name, state)


def _list(connection: Connection, exports: Exports, data: bytes) -> None:
    if data:
        _reply(connection, Option.LIST, OptionReply.ERR_INVALID)
        return
    for name in exports:
        text = name.encode()
        _reply(connection, Option.LIST, OptionReply.SERVER, struct.pack(">I", len(text)) + text)
    _reply(connection, Option.LIST, OptionReply.ACK)


def _meta_context(connection: Connection, exports: Exports, option: int, data: bytes, state: _State) -> None:
    try:
        name, queries = _take_queries(data)
    except (struct.error, ValueError):
        _reply(connection, option, OptionReply.ERR_INVALID)
        return
    if not state.structured:
        _reply(connection, option, OptionReply.ERR_INVALID)
        return
    if name not in exports:
        _reply(connection, option, OptionReply.ERR_UNKNOWN)
        return
    if option == Option.LIST_META_CONTEXT:
        chosen = not queries or any(query in ("base:", protocol.BASE_ALLOCATION) for query in queries)
    else:
        chosen = protocol.BASE_ALLOCATION in queries
        state.allocation_of = name if chosen else None
    if chosen:
        context = struct.pack(">I", ALLOCATION_ID) + protocol.BASE_ALLOCATION.encode()
        _reply(connection, option, OptionReply.META_CONTEXT, context)
    _reply(connection, option, OptionReply.ACK)


def _take_queries(data: bytes) -> tuple[str, list[str]]:
    name, rest = _take_text(data)
    (count,) = struct.unpack_from(">I", rest)
    rest = rest[4:]
    queries = []
    while rest:
        query, rest = _take_text(rest)
        queries.append(query)
    if len(queries) != count:
        raise ValueError("the option holds another number of queries than it says")
    return name, queries


def _take_text(data: bytes) -> tuple[str, bytes]:
    (length,) = struct.unpack_from(">I", data)
    if length > min(len(data) - 4, protocol.MAX_NAME_BYTES):
        raise ValueError("the text is longer than its option")
    return data[4 : 4 + length].decode(), data[4 + length :]
