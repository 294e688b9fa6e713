"""streamOptimized VMDKs as VMware writes them, and as nobody should."""

import struct
import zlib
from collections.abc import Sequence

SECTOR_BYTES = 512
GRAIN_BYTES = 65536
TABLE_GRAINS = 512
_TABLE, _DIRECTORY, _FOOTER = 1, 2, 3


def grain(data: bytes, sector: int, *, length: int | None = None) -> bytes:
    """A compressed grain with its marker."""
    packed = zlib.compress(data, 1)
    return struct.pack("<QI", sector, len(packed) if length is None else length) + packed


def stream_optimized(
    disk: bytes,
    *,
    order: Sequence[int] | None = None,
    footer: bool = False,
    grains: dict[int, bytes] | None = None,
    places: dict[int, int] | None = None,
) -> bytes:
    """`disk` as such a VMDK: its grains in that order, tables behind them and a footer, or tables in front.

    `grains` are written instead of those of that number; `places` are other numbers whose grain a number's entry names.
    """
    count = -(-len(disk) // GRAIN_BYTES)
    tables = -(-count // TABLE_GRAINS)
    directory_sectors = -(-tables * 4 // SECTOR_BYTES)
    table_sectors = TABLE_GRAINS * 4 // SECTOR_BYTES
    text = (
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
        f'createType="streamOptimized"\nRW {len(disk) // SECTOR_BYTES} SPARSE "disk.vmdk"\n'
    ).encode()
    front = 21 + (0 if footer else directory_sectors + tables * table_sectors)
    out = bytearray(front * SECTOR_BYTES)
    out[SECTOR_BYTES : SECTOR_BYTES + len(text)] = text
    found: dict[int, int] = {}
    for number in order if order is not None else range(count):
        data = disk[number * GRAIN_BYTES : (number + 1) * GRAIN_BYTES]
        written = (grains or {}).get(number)
        if written is None and not any(data):
            continue
        found[number] = len(out) // SECTOR_BYTES
        out += written or grain(data, number * GRAIN_BYTES // SECTOR_BYTES)
        out += bytes(-len(out) % SECTOR_BYTES)
    at = 21 + directory_sectors
    directory: list[int] = []
    for table in range(tables):
        numbers = range(table * TABLE_GRAINS, (table + 1) * TABLE_GRAINS)
        entries = struct.pack(f"<{TABLE_GRAINS}I", *(found.get((places or {}).get(n, n), 0) for n in numbers))
        if footer:
            out += _marker(table_sectors, _TABLE)
            directory.append(len(out) // SECTOR_BYTES)
            out += entries
        else:
            directory.append(at + table * table_sectors)
            out[directory[-1] * SECTOR_BYTES : directory[-1] * SECTOR_BYTES + len(entries)] = entries
    packed = struct.pack(f"<{tables}I", *directory)
    if footer:
        out += _marker(directory_sectors, _DIRECTORY)
        place = len(out) // SECTOR_BYTES
        out += packed + bytes(-len(packed) % SECTOR_BYTES)
        out += _marker(1, _FOOTER) + _header(len(disk), place) + bytes(SECTOR_BYTES)
        out[:SECTOR_BYTES] = _header(len(disk), 2**64 - 1)
    else:
        out[21 * SECTOR_BYTES : 21 * SECTOR_BYTES + len(packed)] = packed
        out[:SECTOR_BYTES] = _header(len(disk), 21)
    return bytes(out)


def _marker(sectors: int, kind: int) -> bytes:
    return struct.pack("<QII", sectors, 0, kind).ljust(SECTOR_BYTES, b"\0")


def _header(disk_bytes: int, directory: int) -> bytes:
    fields = (b"KDMV", 3, 1 << 16 | 1 << 17 | 1, disk_bytes // SECTOR_BYTES, GRAIN_BYTES // SECTOR_BYTES, 1, 20)
    header = struct.pack("<4sIIQQQQ", *fields) + struct.pack("<IQQQ", TABLE_GRAINS, 0, directory, 128)
    return (header + b"\0\n \r\n" + struct.pack("<H", 1)).ljust(SECTOR_BYTES, b"\0")
