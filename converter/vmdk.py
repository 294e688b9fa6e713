"""Where the bytes of a disk lie in a compressed VMDK (streamOptimized), and their decompression.

VMware, Virtual Disk Format 1.1, "Stream-Optimized Compressed Sparse Extents". For images that were found safe
(`headers.vmdk`).
"""

import struct
import sys
from array import array
from itertools import pairwise

from converter.headers import SECTOR_BYTES, VmdkHeader, refuse
from converter.inflate import InflateError, decompressor
from converter.mapped import MappedDisk, Piece
from converter.source import ByteSource

# Before a grain: its first sector on the disk, and the length of its data.
_MARKER = struct.Struct("<QI")
_ZERO_GRAIN = 1


class VmdkDisk(MappedDisk):
    """The disk in a compressed VMDK."""

    def __init__(self, source: ByteSource, header: VmdkHeader, chunk_size_bytes: int, max_unpacking_ratio: int) -> None:
        super().__init__(
            source,
            size_bytes=header.size_bytes,
            chunk_bytes=chunk_size_bytes,
            unit_bytes=header.grain_bytes,
            table_units=header.table_grains,
            entry_bytes=4,
            max_unpacking_ratio=max_unpacking_ratio,
        )
        self._places = header.directory
        self._ahead = header.ahead
        self._zero_grains = header.zero_grains

    def _numbers(self, data: bytes) -> "array[int]":
        numbers: array[int] = array("I", data)
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers

    def _check(self, number: int, table: "array[int]") -> None:
        used = [entry for entry in table if not self._is_hole(entry)]
        if not used:
            return
        if len(set(used)) < len(used):
            refuse("CorruptImage", "the VMDK uses one grain for several places of the disk; export it again")
        self._refuse_past_end(max(used) * SECTOR_BYTES)
        self._count_unpacked(len(used) * self._unit_bytes)

    def _collect(self, number: int, first: int, end: int, at: int, left: int, pieces: list[Piece]) -> None:
        table = self._tables[number]
        # Only the grain itself says how long it is; the next one tells where it must have ended. The last is read as
        # far as it could go.
        places = sorted(entry for entry in table[first : end + 1] if not self._is_hole(entry))
        ends = dict(pairwise(places))
        size = self._source.size_bytes()
        for entry in table[first:end]:
            if not self._is_hole(entry):
                offset = entry * SECTOR_BYTES
                longest = min(2 * self._unit_bytes, size - offset)
                length = min(longest, ends[entry] * SECTOR_BYTES - offset) if entry in ends else longest
                pieces.append(Piece(at, min(self._unit_bytes, left), offset, length, True))
            at += self._unit_bytes
            left -= self._unit_bytes

    def _unpack(self, piece: Piece, data: memoryview, position: int) -> bytes:
        if len(data) < _MARKER.size:
            refuse("TruncatedImage", "the image is cut off inside a grain of the VMDK; fetch it again")
        sector, length = _MARKER.unpack_from(data)
        if sector * SECTOR_BYTES != position:
            refuse("CorruptImage", "the VMDK has a grain of another place of the disk; export it again")
        if length > len(data) - _MARKER.size:
            if piece.host_offset + _MARKER.size + length > self._source.size_bytes():
                refuse("TruncatedImage", "the image is cut off inside a grain of the VMDK; fetch it again")
            refuse("CorruptImage", "the VMDK has a grain that reaches into another; export it again")
        grain = decompressor()
        try:
            out = grain.decompress(data[_MARKER.size : _MARKER.size + length], self._unit_bytes)
        except InflateError as exc:
            refuse("CorruptImage", f"the VMDK has a grain that cannot be read: {exc}")
        if not grain.eof or len(out) < piece.length_bytes:
            refuse("CorruptImage", f"the VMDK has a grain of {len(out)} bytes, or more; export it again")
        return out

    def _is_hole(self, entry: int) -> bool:
        return not entry or (self._zero_grains and entry == _ZERO_GRAIN)
