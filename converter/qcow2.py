"""Where the bytes of a disk lie in a qcow2, and their decompression (docs/interop/qcow2.txt of QEMU).

For images that were found safe (`headers.qcow2`). Unusual images stay with qemu-img.
"""

import struct
import sys
import threading
from array import array

import zstandard

from converter.headers import refuse
from converter.inflate import RAW_4K, InflateError, decompressor
from converter.mapped import READ_BYTES, MappedDisk, Piece
from converter.source import ByteSource

MIN_CLUSTER_BITS = 12
SECTOR_BYTES = 512

_OFFSET_MASK = 0x00FFFFFFFFFFFE00
_COMPRESSED, _ZERO = 1 << 62, 1
_EXTENDED_L2 = 1 << 4
_ZLIB, _ZSTD = 0, 1
# qemu writes windows of 2 MiB at most.
_MAX_ZSTD_WINDOW_BYTES = 8 * 2**20
# What one byte of deflate gives at most; and the least that a frame of zstd takes.
_MOST_OF_DEFLATE, _LEAST_ZSTD_BYTES = 1032, 10
_SHARED = "the qcow2 uses the same bytes for several places of the disk; export it again"


class _Codec(threading.local):
    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES)


_codec = _Codec()


class Qcow2Disk(MappedDisk):
    """The disk in a qcow2."""

    def __init__(
        self, source: ByteSource, virtual_size_bytes: int, chunk_size_bytes: int, max_unpacking_ratio: int
    ) -> None:
        header = source.read_at(0, 112)
        version, cluster_bits, l1_offset = struct.unpack_from(">4xI12xI16xQ", header)
        (features,) = struct.unpack_from(">Q", header, 72) if version > 2 else (0,)
        (header_bytes,) = struct.unpack_from(">I", header, 100) if version > 2 else (72,)
        self._compression = header[104] if header_bytes > 104 else _ZLIB
        self._version = version
        self._cluster_bits = cluster_bits
        self._cluster_bytes: int = 1 << cluster_bits
        super().__init__(
            source,
            size_bytes=virtual_size_bytes,
            chunk_bytes=chunk_size_bytes,
            unit_bytes=self._cluster_bytes,
            table_units=self._cluster_bytes // 8,
            entry_bytes=8,
            max_unpacking_ratio=max_unpacking_ratio,
        )
        self.unusual = bool(
            features & _EXTENDED_L2 or cluster_bits < MIN_CLUSTER_BITS or self._compression not in (_ZLIB, _ZSTD)
        )
        """Whether it is a variant that is left to qemu-img; nothing else may be called then."""
        self._referred_bytes = 0
        if self.unusual:
            return
        entries = -(-virtual_size_bytes // (self._table_units * self._cluster_bytes))
        self._places = [entry & _OFFSET_MASK for entry in self._numbers(self._export.read(l1_offset, entries * 8))]
        used = [place for place in self._places if place]
        if len(set(used)) < len(used):
            refuse("CorruptImage", "the qcow2 uses one table for several parts of the disk")

    def _forget(self) -> None:
        super()._forget()
        self._referred_bytes = 0

    def _numbers(self, data: bytes) -> "array[int]":
        numbers: array[int] = array("Q", data)
        if sys.byteorder == "little":
            numbers.byteswap()
        return numbers

    def _collect(self, number: int, first: int, end: int, at: int, left: int, pieces: list[Piece]) -> None:
        cluster = self._cluster_bytes
        run_at = run_offset = run_bytes = 0
        for entry in self._tables[number][first:end]:
            length = min(cluster, left)
            offset = 0
            if entry & _COMPRESSED:
                host_offset, host_bytes = self._compressed_place(entry)
                pieces.append(Piece(at, length, host_offset, host_bytes, True))
            elif not entry & _ZERO:
                offset = entry & _OFFSET_MASK
            if run_bytes and (offset != run_offset + run_bytes or run_bytes >= READ_BYTES):
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

    def _unpack(self, piece: Piece, data: memoryview, position: int) -> bytes:
        """Exactly one cluster: the length of the compressed data is known only to a sector, so more may follow."""
        try:
            if self._compression == _ZSTD:
                out = _codec.zstd.decompress(data, max_output_size=self._cluster_bytes, allow_extra_data=True)
            else:
                out = decompressor(RAW_4K).decompress(data, self._cluster_bytes)
        except (InflateError, zstandard.ZstdError) as exc:
            refuse("CorruptImage", f"the qcow2 has a compressed cluster that cannot be read: {exc}")
        if len(out) != self._cluster_bytes:
            refuse("CorruptImage", f"the qcow2 has a compressed cluster of {len(out)} bytes")
        return out

    def _check(self, number: int, table: "array[int]") -> None:
        if self._places[number] % self._cluster_bytes:
            refuse("CorruptImage", "the qcow2 has a table that is not aligned")
        referred, furthest = 0, 0
        compressed: set[int] = set()
        least = _LEAST_ZSTD_BYTES if self._compression == _ZSTD else self._cluster_bytes // _MOST_OF_DEFLATE
        for entry in table:
            if entry & _COMPRESSED:
                place, length = self._compressed_place(entry)
                if place in compressed:
                    refuse("CorruptImage", _SHARED)
                compressed.add(place)
                # It shares its first and last sector with others.
                referred += max(length - 2 * SECTOR_BYTES, least)
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
        self._refuse_past_end(furthest)
        self._referred_bytes += referred
        if self._referred_bytes > self._source.size_bytes() + self._cluster_bytes:
            refuse("CorruptImage", _SHARED)
        self._count_unpacked(len(compressed) * self._cluster_bytes)
