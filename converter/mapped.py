"""Disks that a format's tables map to places in the file, and one pass over that file, in its own order.

What qemu-img would make of them is made here without a socket, a process or a copy of the file: what is compressed is
unpacked in the threads that compress chunks.
"""

from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from converter.headers import refuse, refuse_bomb
from converter.nbd.parts import ChunkParts
from converter.nbd.source import FREE_BYTES, SourceExport
from converter.source import ByteSource, StreamingSource, changed, confirm

MAX_TABLES_BYTES = 64 * 2**20
MAX_TABLE_READS = 1024
MAX_GAP_BYTES = 64 * 2**10
# What is read at once, however large a chunk is: a source keeps a few of these in memory.
READ_BYTES = 4 * 2**20
# qemu puts compressed clusters where there is room, so that a few lie far from those of their chunk.
STRAY_BYTES = 2**20
MAX_GROUPS = 4
MAX_HELD_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of the disk, and where the file has it."""

    at: int
    """Where in its chunk the run begins."""
    length_bytes: int
    host_offset: int
    host_length_bytes: int
    compressed: bool

    @property
    def host_end(self) -> int:
        """Where in the file it ends."""
        return self.host_offset + self.host_length_bytes


@dataclass(frozen=True, slots=True)
class Step:
    """What is read next in one pass over the file: some of the pieces of a chunk, nearly always all of them."""

    index: int
    """Of the chunk."""
    first: int
    end: int
    """The pieces from `first` up to `end`."""
    last: bool
    """Whether the chunk is complete then."""
    release_offset: int
    """Nothing before that offset of the file is read in this step or a later one."""


@dataclass(frozen=True, slots=True)
class TableCheck:
    """A table passes by that was read ahead: nothing may be made of bytes that the checksums do not cover."""

    number: int
    """Of the table; behind the last, of what else was read ahead."""
    release_offset: int


class MappedDisk(ABC):
    """The disk in a file, chunk by chunk. Not for several threads, but for `assemble`.

    A table maps so many units (clusters, grains) in a row, all of one size, of which a chunk holds a whole number.
    Every method that reads may raise SourceError, and ImageError: `TruncatedImage`, or `CorruptImage` where the tables
    break the format, or `DecompressionBomb`.
    """

    def __init__(
        self,
        source: ByteSource,
        *,
        size_bytes: int,
        chunk_bytes: int,
        unit_bytes: int,
        table_units: int,
        entry_bytes: int,
        max_unpacking_ratio: int,
    ) -> None:
        self._source = source
        self._export = SourceExport(source)
        self._size_bytes = size_bytes
        self._chunk_bytes = chunk_bytes
        self._unit_bytes = unit_bytes
        self._table_units = table_units
        self._entry_bytes = entry_bytes
        self._max_unpacking_ratio = max_unpacking_ratio
        self._places: Sequence[int] = ()
        """Where in the file each table is; 0 for one that is all holes."""
        self._ahead: Sequence[tuple[int, bytes]] = ()
        """What was read ahead of its turn to find the tables, by offset."""
        self._tables: dict[int, array[int]] = {}
        self._unpacked_bytes = 0

    @property
    def chunk_count(self) -> int:
        """Chunks of the disk, with those that are all zero."""
        return -(-self._size_bytes // self._chunk_bytes)

    def chunk_bytes(self, index: int) -> int:
        """The length of a chunk: the last one may be shorter."""
        return min(self._chunk_bytes, self._size_bytes - index * self._chunk_bytes)

    @abstractmethod
    def _numbers(self, data: bytes) -> "array[int]":
        """The entries of a table."""

    @abstractmethod
    def _check(self, number: int, table: "array[int]") -> None:
        """Refuse a table, read for the first time, whose entries cannot be."""

    @abstractmethod
    def _collect(self, number: int, first: int, end: int, at: int, left: int, pieces: list[Piece]) -> None:
        """Add the pieces of units `first` to `end` of a table; they begin at `at` in a chunk that `left` bytes end."""

    @abstractmethod
    def _unpack(self, piece: Piece, data: memoryview, position: int) -> bytes:
        """At least the bytes of a compressed piece, which is at `position` of the disk. Safe from any thread."""

    def _forget(self) -> None:
        """What was read ahead is not covered by the checksums: begin anew. SourceError `SourceChanged`."""
        confirm(self._source, self._ahead)
        self._tables, self._unpacked_bytes = {}, 0

    def streaming_order(self) -> list[Step | TableCheck] | None:
        """The steps in which one pass over the file gives every chunk that is not a hole; None where none does.

        Needs a source that reads the tables ahead, and a file that is more or less in the order of the disk: the bytes
        between what is read next and what was not read yet must fit the source's window, and the pieces of chunks that
        are not complete yet a chunk and `MAX_HELD_BYTES`.
        """
        steps = None
        if isinstance(self._source, StreamingSource) and self._read_tables(self._source):
            steps = self._planned(self._source)
        if steps is None:
            self._forget()
        return steps

    def check_table(self, number: int) -> None:
        """SourceError `SourceChanged` if a table that was read ahead is not what the source has in its turn."""
        if number >= len(self._places):
            confirm(self._source, [self._ahead[number - len(self._places)]])
            return
        found = self._export.read(self._places[number], self._table_bytes(number))
        if self._numbers(found) != self._tables[number]:
            raise changed()

    def pieces(self, index: int) -> list[Piece]:
        """What chunk `index` consists of, by rising offset in the file; what is in no piece is zero."""
        start = index * self._chunk_bytes
        end = min(start + self._chunk_bytes, self._size_bytes)
        pieces: list[Piece] = []
        while start < end:
            number, offset = divmod(start, self._table_units * self._unit_bytes)
            stop = min(end, (number + 1) * self._table_units * self._unit_bytes)
            if self._places[number]:
                self._load(number)
                first, last = offset // self._unit_bytes, -(-(offset + stop - start) // self._unit_bytes)
                self._collect(number, first, last, start - index * self._chunk_bytes, end - start, pieces)
            start = stop
        return sorted(pieces, key=lambda piece: piece.host_offset)

    def read(self, pieces: Sequence[Piece]) -> list[memoryview]:
        """The bytes of each piece as the file has them; pieces that lie together are read at once."""
        found: list[memoryview] = []
        for group in groups(pieces, MAX_GAP_BYTES):
            start = group[0].host_offset
            data = memoryview(self._export.read(start, max(piece.host_end for piece in group) - start))
            found += [data[piece.host_offset - start : piece.host_end - start] for piece in group]
        return found

    def fill(self, parts: ChunkParts, index: int, pieces: Sequence[Piece], data: list[memoryview]) -> None:
        """Put into `parts`, which are of chunk `index`, what `read` gave for some of its pieces."""
        start = index * self._chunk_bytes
        for piece, found in zip(pieces, data, strict=True):
            parts.write(piece.at, self._content(piece, found, start))

    def assemble(self, index: int, pieces: Sequence[Piece], data: list[memoryview]) -> bytearray | memoryview:
        """Chunk `index` from what `read` gave for its pieces. Safe from any thread."""
        start, length = index * self._chunk_bytes, self.chunk_bytes(index)
        if len(pieces) == 1 and not pieces[0].compressed and pieces[0].length_bytes == length:
            return data[0]
        chunk = bytearray(length)
        for piece, found in zip(pieces, data, strict=True):
            chunk[piece.at : piece.at + piece.length_bytes] = self._content(piece, found, start)
        return chunk

    def _content(self, piece: Piece, found: memoryview, start: int) -> memoryview:
        if not piece.compressed:
            return found
        return memoryview(self._unpack(piece, found, start + piece.at))[: piece.length_bytes]

    def _table_bytes(self, number: int) -> int:
        """Of the part of a table that the disk needs; the last one may be cut where the disk ends."""
        first = number * self._table_units
        return min(self._table_units, -(-self._size_bytes // self._unit_bytes) - first) * self._entry_bytes

    def _load(self, number: int) -> None:
        if number not in self._tables:
            # Asked for in the order of the disk, each for a while.
            self._tables = {}
            self._enter(number, self._export.read(self._places[number], self._table_bytes(number)))

    def _enter(self, number: int, data: bytes) -> None:
        table = self._numbers(data)
        self._check(number, table)
        self._tables[number] = table

    def _count_unpacked(self, size_bytes: int) -> None:
        """Refuse to unpack so much more than the file has bytes."""
        self._unpacked_bytes += size_bytes
        if self._unpacked_bytes > FREE_BYTES + self._max_unpacking_ratio * self._source.size_bytes():
            refuse_bomb(self._max_unpacking_ratio)

    def _refuse_past_end(self, offset: int) -> None:
        size = self._source.size_bytes()
        if offset >= size:
            refuse("TruncatedImage", f"the image is cut off: it refers to byte {offset}, and has {size}")

    def _read_tables(self, source: StreamingSource) -> bool:
        """Read all tables ahead, those that lie together at once; whether the source gives them."""
        tables = sorted(
            (place, self._table_bytes(number), number) for number, place in enumerate(self._places) if place
        )
        if sum(length for _, length, _ in tables) > MAX_TABLES_BYTES:
            return False
        runs: list[list[tuple[int, int, int]]] = []
        end = 0
        for table in tables:
            if not runs or table[0] > end + MAX_GAP_BYTES or table[0] + table[1] > runs[-1][0][0] + READ_BYTES:
                runs.append([])
            runs[-1].append(table)
            end = table[0] + table[1]
        if len(runs) > MAX_TABLE_READS:
            return False
        for run in runs:
            start = run[0][0]
            length = run[-1][0] + run[-1][1] - start
            data = source.read_ahead(start, length)
            if data is None or len(data) < length:
                return False
            for place, table_bytes, number in run:
                self._enter(number, data[place - start : place - start + table_bytes])
        return True

    def _planned(self, source: StreamingSource) -> list[Step | TableCheck] | None:
        # End, start, index of the chunk (negative: a table), first and last of the pieces, whether it is complete then,
        # and what is held of it until then.
        spans = [
            (self._places[number] + self._table_bytes(number), self._places[number], ~number, 0, 0, True, 0)
            for number in self._tables
        ]
        spans += [
            (at + len(data), at, ~(len(self._places) + number), 0, 0, True, 0)
            for number, (at, data) in enumerate(self._ahead)
        ]
        most = len(spans) + (MAX_GROUPS + self._chunk_bytes // READ_BYTES) * self.chunk_count
        for index in range(self.chunk_count):
            pieces = self.pieces(index)
            first = end = 0
            for group in groups(pieces, STRAY_BYTES):
                end, start, last = (
                    max(end, *(piece.host_end for piece in group)),
                    group[0].host_offset,
                    first + len(group),
                )
                # As it is in the file, or unpacked.
                held_bytes = max(end - start, sum(piece.length_bytes for piece in group))
                spans.append((end, start, index, first, last, last == len(pieces), held_bytes))
                first = last
            if len(spans) > most:
                return None
        spans.sort()
        held: Counter[int] = Counter()
        for _, _, index, _, _, complete, held_bytes in spans:
            if complete:
                held.pop(index, None)
            else:
                held[index] += held_bytes
                if held.total() > self._chunk_bytes + MAX_HELD_BYTES:
                    return None
        steps: list[Step | TableCheck] = []
        needed = source.size_bytes()
        for end, start, index, first, last, complete, _ in reversed(spans):
            needed = min(needed, start)
            if end - needed > source.window_bytes:
                return None
            steps.append(TableCheck(~index, needed) if index < 0 else Step(index, first, last, complete, needed))
        return steps[::-1]


def groups(pieces: Sequence[Piece], gap_bytes: int = MAX_GAP_BYTES) -> Iterator[list[Piece]]:
    """Pieces that are read together: close to each other, and at most `READ_BYTES` in all."""
    group: list[Piece] = []
    end = 0
    for piece in pieces:
        if group and (piece.host_offset > end + gap_bytes or piece.host_end > group[0].host_offset + READ_BYTES):
            yield group
            group = []
        end = max(end, piece.host_end) if group else piece.host_end
        group.append(piece)
    if group:
        yield group
