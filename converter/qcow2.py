"""Where the bytes of a disk lie in a qcow2, and their decompression (docs/interop/qcow2.txt of QEMU).

For images that were found safe (`headers.qcow2`). What qemu-img would make of them is made here in one pass over the
file, in the order in which it arrives: no socket, no process, no copy of the file. Unusual images stay with qemu-img.
"""

import struct
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import zstandard

from converter.headers import refuse
from converter.nbd.source import SourceExport
from converter.source import ByteSource, StreamingSource
from dvcr.errors import SourceError

MIN_CLUSTER_BITS = 12
MAX_TABLES_BYTES = 64 * 2**20
MAX_GAP_BYTES = 64 * 2**10
# qemu puts compressed clusters where there is room, so that a few lie far from those of their chunk.
STRAY_BYTES = 2**20
MAX_GROUPS = 4
MAX_HELD_BYTES = 16 * 2**20
SECTOR_BYTES = 512

_OFFSET_MASK = 0x00FFFFFFFFFFFE00
_COMPRESSED, _ZERO = 1 << 62, 1
_EXTENDED_L2 = 1 << 4
_ZLIB, _ZSTD = 0, 1
# qemu writes windows of 2 MiB at most.
_MAX_ZSTD_WINDOW_BYTES = 8 * 2**20


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
    release_offset: int


class Qcow2Disk:
    """The disk in a qcow2, chunk by chunk. Not for several threads, but for `assemble`.

    Every method that reads may raise SourceError, and ImageError: `TruncatedImage`, or `CorruptImage` where the tables
    break the format, or refer to more bytes than the file has.
    """

    def __init__(self, source: ByteSource, virtual_size_bytes: int, chunk_size_bytes: int) -> None:
        header = source.read_at(0, 112)
        version, cluster_bits, l1_offset = struct.unpack_from(">4xI12xI16xQ", header)
        (features,) = struct.unpack_from(">Q", header, 72) if version > 2 else (0,)
        (header_bytes,) = struct.unpack_from(">I", header, 100) if version > 2 else (72,)
        self._compression = header[104] if header_bytes > 104 else _ZLIB
        self._version = version
        self._source = source
        self._export = SourceExport(source)
        self._size_bytes = virtual_size_bytes
        self._chunk_bytes = chunk_size_bytes
        self._cluster_bits = cluster_bits
        self._cluster_bytes: int = 1 << cluster_bits
        # Of the disk, by one table of the second level.
        self._table_span_bytes = self._cluster_bytes // 8 * self._cluster_bytes
        entries = -(-virtual_size_bytes // self._table_span_bytes)
        self.unusual = bool(
            features & _EXTENDED_L2 or cluster_bits < MIN_CLUSTER_BITS or self._compression not in (_ZLIB, _ZSTD)
        )
        """Whether it is a variant that is left to qemu-img; nothing else may be called then."""
        self._referred_bytes = 0
        self._tables: dict[int, array[int]] = {}
        if self.unusual:
            return
        self._l1 = _numbers(self._export.read(l1_offset, entries * 8))
        offsets = [entry & _OFFSET_MASK for entry in self._l1 if entry & _OFFSET_MASK]
        if len(set(offsets)) < len(offsets):
            refuse("CorruptImage", "the qcow2 uses one table for several parts of the disk")
        self._tables_bytes = len(offsets) * self._cluster_bytes

    @property
    def chunk_count(self) -> int:
        """Chunks of the disk, with those that are all zero."""
        return -(-self._size_bytes // self._chunk_bytes)

    def streaming_order(self) -> list[Step | TableCheck] | None:
        """The steps in which one pass over the file gives every chunk that is not a hole; None where none does.

        Needs a source that reads the tables ahead, and a file that is more or less in the order of the disk: the bytes
        between what is read next and what was not read yet must fit the source's window, and the pieces of chunks that
        are not complete yet `MAX_HELD_BYTES`.
        """
        steps = self._planned(self._source) if isinstance(self._source, StreamingSource) else None
        if steps is None:
            # What was read ahead is not covered by the checksums.
            self._tables, self._referred_bytes = {}, 0
        return steps

    def _planned(self, source: StreamingSource) -> list[Step | TableCheck] | None:
        if self._tables_bytes > MAX_TABLES_BYTES:
            return None
        for number, entry in enumerate(self._l1):
            offset, length = entry & _OFFSET_MASK, self._table_bytes(number)
            if offset:
                data = source.read_ahead(offset, length)
                if data is None or len(data) < length:
                    return None
                self._tables[number] = self._checked(offset, data)
        # End, start, index of the chunk (negative: a table), first and last of the pieces, whether it is complete then.
        spans = [
            (
                (self._l1[number] & _OFFSET_MASK) + self._table_bytes(number),
                self._l1[number] & _OFFSET_MASK,
                ~number,
                0,
                0,
                True,
            )
            for number in self._tables
        ]
        for index in range(self.chunk_count):
            pieces = self.pieces(index)
            first = 0
            for group in _groups(pieces, STRAY_BYTES):
                end, start = max(piece.host_end for piece in group), group[0].host_offset
                spans.append((end, start, index, first, first + len(group), first + len(group) == len(pieces)))
                first += len(group)
            if len(spans) > MAX_GROUPS * self.chunk_count:
                return None
        spans.sort()
        held: Counter[int] = Counter()
        for end, start, index, _, _, last in spans:
            if last:
                held.pop(index, None)
            else:
                held[index] += end - start
                if held.total() > MAX_HELD_BYTES:
                    return None
        steps: list[Step | TableCheck] = []
        needed = source.size_bytes()
        for end, start, index, first, count, last in reversed(spans):
            needed = min(needed, start)
            if end - needed > source.window_bytes:
                return None
            steps.append(TableCheck(~index, needed) if index < 0 else Step(index, first, count, last, needed))
        return steps[::-1]

    def check_table(self, number: int) -> None:
        """SourceError `SourceChanged` if a table that was read ahead is not what the source has in its turn."""
        offset = self._l1[number] & _OFFSET_MASK
        if _numbers(self._export.read(offset, self._table_bytes(number))) != self._tables[number]:
            raise SourceError(
                "the source gave other bytes when it was asked for a part than it gave as a whole; try again",
                reason="SourceChanged",
            )

    def pieces(self, index: int) -> list[Piece]:
        """What chunk `index` consists of, by rising offset in the file; what is in no piece is zero."""
        start = index * self._chunk_bytes
        end = min(start + self._chunk_bytes, self._size_bytes)
        pieces: list[Piece] = []
        while start < end:
            number, offset = divmod(start, self._table_span_bytes)
            stop = min(end, (number + 1) * self._table_span_bytes)
            table = self._table(number)
            if table is not None:
                first, last = offset >> self._cluster_bits, (stop - 1) % self._table_span_bytes >> self._cluster_bits
                self._collect(table[first : last + 1], start - index * self._chunk_bytes, end - start, pieces)
            start = stop
        return sorted(pieces, key=lambda piece: piece.host_offset)

    def read(self, pieces: Sequence[Piece]) -> list[memoryview]:
        """The bytes of each piece as the file has them; pieces that lie together are read at once."""
        found: list[memoryview] = []
        for group in _groups(pieces, MAX_GAP_BYTES):
            start = group[0].host_offset
            data = memoryview(self._export.read(start, max(piece.host_end for piece in group) - start))
            found += [data[piece.host_offset - start : piece.host_end - start] for piece in group]
        return found

    def assemble(self, index: int, pieces: Sequence[Piece], data: Sequence[memoryview]) -> bytearray | memoryview:
        """Chunk `index` from what `read` gave for its pieces. Safe from any thread."""
        length = min(self._chunk_bytes, self._size_bytes - index * self._chunk_bytes)
        if len(pieces) == 1 and not pieces[0].compressed and pieces[0].length_bytes == length:
            return data[0]
        chunk = bytearray(length)
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES)
        for piece, found in zip(pieces, data, strict=True):
            if piece.compressed:
                found = memoryview(self._decompressed(found, decompressor))[: piece.length_bytes]
            chunk[piece.at : piece.at + piece.length_bytes] = found
        return chunk

    def _collect(self, entries: Sequence[int], at: int, left: int, pieces: list[Piece]) -> None:
        """Add the pieces of consecutive clusters, the first of which is at `at` in the chunk."""
        cluster = self._cluster_bytes
        run_at = run_offset = run_bytes = 0
        for entry in entries:
            length = min(cluster, left)
            offset = 0
            if entry & _COMPRESSED:
                host_offset, host_bytes = self._compressed_place(entry)
                pieces.append(Piece(at, length, host_offset, host_bytes, True))
            elif not entry & _ZERO:
                offset = entry & _OFFSET_MASK
            if run_bytes and offset != run_offset + run_bytes:
                pieces.append(Piece(run_at, run_bytes, run_offset, run_bytes, False))
                run_bytes = 0
            if offset:
                if not run_bytes:
                    run_at, run_offset = at, offset
                run_bytes += length
            at += cluster
            left -= cluster
        if run_bytes:
            pieces.append(Piece(run_at, run_bytes, run_offset, run_bytes, False))

    def _compressed_place(self, entry: int) -> tuple[int, int]:
        offset_bits = 62 - (self._cluster_bits - 8)
        offset = entry & ((1 << offset_bits) - 1)
        sectors = (entry >> offset_bits & ((1 << self._cluster_bits - 8) - 1)) + 1
        return offset, sectors * SECTOR_BYTES - offset % SECTOR_BYTES

    def _decompressed(self, data: memoryview, decompressor: zstandard.ZstdDecompressor) -> bytes:
        """Exactly one cluster: the length of the compressed data is known only to a sector, so more may follow."""
        try:
            if self._compression == _ZSTD:
                out = decompressor.decompress(data, max_output_size=self._cluster_bytes, allow_extra_data=True)
            else:
                out = zlib.decompressobj(-12).decompress(data, self._cluster_bytes)
        except (zlib.error, zstandard.ZstdError) as exc:
            refuse("CorruptImage", f"the qcow2 has a compressed cluster that cannot be read: {exc}")
        if len(out) != self._cluster_bytes:
            refuse("CorruptImage", f"the qcow2 has a compressed cluster of {len(out)} bytes")
        return out

    def _table(self, number: int) -> "array[int] | None":
        offset = self._l1[number] & _OFFSET_MASK
        if not offset:
            return None
        table = self._tables.get(number)
        if table is None:
            # Asked for in the order of the disk, each for a while.
            table = self._checked(offset, self._export.read(offset, self._table_bytes(number)))
            self._tables = {number: table}
        return table

    def _table_bytes(self, number: int) -> int:
        span: int = min(self._table_span_bytes, self._size_bytes - number * self._table_span_bytes)
        return -(-span // self._cluster_bytes) * 8

    def _checked(self, offset: int, data: bytes) -> "array[int]":
        """The entries of a table that is read for the first time."""
        table = _numbers(data)
        if offset % self._cluster_bytes:
            refuse("CorruptImage", "the qcow2 has a table that is not aligned")
        referred, furthest = 0, 0
        for entry in table:
            if entry & _COMPRESSED:
                place, length = self._compressed_place(entry)
                # It shares its first and last sector with others.
                referred += max(length - 2 * SECTOR_BYTES, 0)
            elif entry & _ZERO:
                if self._version < 3:
                    refuse("CorruptImage", "the qcow2 has a cluster that its version does not know")
                continue
            else:
                place = entry & _OFFSET_MASK
                if place & self._cluster_bytes - 1:
                    refuse("CorruptImage", "the qcow2 has a cluster that is not aligned")
                referred += self._cluster_bytes if place else 0
            furthest = max(furthest, place)
        size = self._source.size_bytes()
        if furthest >= size:
            refuse("TruncatedImage", f"the image is cut off: it refers to byte {furthest}, and has {size}")
        self._referred_bytes += referred
        if self._referred_bytes > size + self._cluster_bytes:
            refuse("CorruptImage", "the qcow2 uses the same bytes for several places of the disk")
        return table


def _numbers(data: bytes) -> "array[int]":
    numbers: array[int] = array("Q", data)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def _groups(pieces: Sequence[Piece], gap_bytes: int) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    end = 0
    for piece in pieces:
        if group and piece.host_offset > end + gap_bytes:
            yield group
            group = []
        end = max(end, piece.host_end) if group else piece.host_end
        group.append(piece)
    if group:
        yield group
