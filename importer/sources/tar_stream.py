"""A tar archive read from front to back as it arrives, in little memory whatever it holds (POSIX ustar, pax, GNU)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from converter import pax

BLOCK_BYTES = 512
_MAX_MEMBERS = 250_000
_MAX_RECORDS_BYTES = 2**20
_MAX_NAME_BYTES = 4096
_SPARSE, _SPARSE_MARK, _SPARSE_NAME = b"GNU.sparse.", "sparse", "GNU.sparse.name"
# Of a GNU header, and of the blocks that then follow it: whether another one follows.
_SPARSE_MORE_AT, _SPARSE_NEXT_MORE_AT = 482, 504
_LONG_NAME, _LONG_LINK, _GNU_SPARSE, _GLOBAL = b"L", b"K", b"S", b"g"
_PAX = (b"x", b"X")
_EXTENSIONS = (*_PAX, _LONG_NAME, _LONG_LINK, _GLOBAL)
_FILES, _FOLDER = (b"0", b"\0", b"7", _GNU_SPARSE), b"5"
# Links, devices and folders may tell a size, and have no content.
_BODILESS = (b"1", b"2", b"3", b"4", _FOLDER, b"6")
_SUM_AT, _SUM_END = 148, 156
_BLANK_SUM = 8 * ord(" ")


class TarStreamError(Exception):
    """The archive is damaged, cut off, or made to exhaust whoever reads it."""


class _Header(NamedTuple):
    name: str
    size_bytes: int
    kind: bytes


@dataclass(frozen=True, slots=True)
class TarMember:
    """One entry; `name` without `.` and empty parts."""

    name: str
    size_bytes: int
    is_folder: bool
    is_file: bool
    """A plain file, all of whose bytes are in the archive in order."""
    is_sparse: bool


class TarStream:
    """The members of the archive that `pieces` are, each with its content while it is the current one.

    Holds one piece, and one header of at most 1 MiB. More than 250 000 members are an error.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0
        self._left = 0
        self._padding = 0

    def members(self) -> Iterator[TarMember]:
        """Each member; TarStreamError. What was not read of the one before is passed over."""
        seen = 0
        while (block := self._read_block()) is not None and any(block):
            seen += 1
            if seen > _MAX_MEMBERS:
                raise TarStreamError(f"it holds more than {_MAX_MEMBERS} files")
            records: dict[str, str] = {}
            header = _header(block)
            while header.kind in _EXTENSIONS:
                seen += 1
                self._read_extension(header, records)
                if seen > _MAX_MEMBERS or (block := self._read_block()) is None:
                    raise TarStreamError("a header is followed by no file")
                header = _header(block)
            yield self._begin(header, block, records)
            self._skip(self._left + self._padding)

    def content(self) -> Iterator[bytes]:
        """The bytes of the current member, in pieces."""
        while self._left:
            piece = self._take(self._left)
            self._left -= len(piece)
            yield piece

    def _begin(self, header: _Header, block: bytes, records: dict[str, str]) -> TarMember:
        kind = header.kind
        sparse = kind == _GNU_SPARSE
        more = sparse and block[_SPARSE_MORE_AT]
        while more:
            following = self._read_block()
            if following is None:
                raise _cut()
            more = following[_SPARSE_NEXT_MORE_AT]
        size = pax.file_size(records, header.size_bytes)
        self._left = 0 if kind in _BODILESS else size
        self._padding = -self._left % BLOCK_BYTES
        name = records.get(_SPARSE_NAME) or records.get("path") or header.name
        if len(name) > _MAX_NAME_BYTES:
            raise TarStreamError(f"a file has a name of {len(name)} characters")
        sparse = sparse or _SPARSE_MARK in records or _SPARSE_NAME in records
        # Before POSIX.1 a folder was a file whose name ends so.
        folder = kind == _FOLDER or (kind == b"\0" and name.endswith("/"))
        parts = [part for part in name.split("/") if part not in ("", ".")]
        return TarMember("/".join(parts), size, folder, kind in _FILES and not folder and not sparse, sparse)

    def _read_extension(self, header: _Header, records: dict[str, str]) -> None:
        """What is said of the next member; a global header is passed over, as nothing in it is about the content."""
        length = header.size_bytes
        if header.kind == _GLOBAL:
            self._skip(length + -length % BLOCK_BYTES)
            return
        if length > _MAX_RECORDS_BYTES:
            raise TarStreamError(f"it has a header of {length} bytes")
        data = self._read(length)
        self._skip(-length % BLOCK_BYTES)
        if header.kind in _PAX:
            records.update(_records(data))
        elif header.kind == _LONG_NAME:
            records["path"] = data.partition(b"\0")[0].decode(errors="replace")

    def _read_block(self) -> bytes | None:
        """The next 512 bytes; None at the end, which need not be marked."""
        if not self._fill():
            return None
        return self._read(BLOCK_BYTES)

    def _read(self, length_bytes: int) -> bytes:
        pieces = []
        while length_bytes:
            pieces.append(self._take(length_bytes))
            length_bytes -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _skip(self, length_bytes: int) -> None:
        while length_bytes:
            if not self._fill():
                raise _cut()
            step = min(length_bytes, len(self._piece) - self._at)
            self._at += step
            length_bytes -= step
        self._left = self._padding = 0

    def _take(self, most_bytes: int) -> bytes:
        if not self._fill():
            raise _cut()
        piece = self._piece[self._at : self._at + most_bytes]
        self._at += len(piece)
        return piece

    def _fill(self) -> bool:
        while self._at == len(self._piece):
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._piece, self._at = piece, 0
        return True


def _header(block: bytes) -> _Header:
    """Of one block (POSIX.1, "ustar Interchange Format"; GNU tar, "Basic Tar Format")."""
    if len(block) < BLOCK_BYTES:
        raise _cut()
    computed = sum(block) - sum(block[_SUM_AT:_SUM_END]) + _BLANK_SUM
    if _number(block[_SUM_AT:_SUM_END]) != computed:
        raise TarStreamError("the checksum of a header is wrong")
    size = _number(block[124:136])
    if size < 0:
        raise TarStreamError("a file has a negative size")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:  # GNU keeps something else there
        name = f"{_text(block[345:500])}/{name}"
    return _Header(name, size, block[156:157])


def _number(field: bytes) -> int:
    """Octal digits, or GNU's base 256."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") - (256 ** (len(field) - 1) if field[0] == 0xFF else 0)
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError as exc:
        raise TarStreamError("a header is damaged") from exc


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace")


def _records(data: bytes) -> dict[str, str]:
    """The records of a pax header (POSIX.1, "pax Extended Header") that matter here: any number may stand in it."""
    found = {}
    try:
        for key, value in pax.records(data):
            if key in (b"path", b"size", b"GNU.sparse.name"):
                found[key.decode()] = value.decode(errors="replace")
            elif key.startswith(_SPARSE):
                found[_SPARSE_MARK] = ""
    except ValueError as exc:
        raise TarStreamError(str(exc)) from exc
    return found


def _cut() -> TarStreamError:
    return TarStreamError("it is cut off")
