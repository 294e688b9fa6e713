"""The metadata of a VHDX (MS-VHDX): is it whole, does it stand alone, how large is the disk."""

import struct
from collections.abc import Mapping
from uuid import UUID

from converter.headers import MAX_ENTRIES, SECTOR_BYTES, Table, read, refuse, refuse_bad_blocks, refuse_overlap
from converter.source import ByteSource

HEADERS_AT, HEADER_BYTES = (64 * 1024, 128 * 1024), 4096
REGIONS_AT, REGIONS_BYTES = 192 * 1024, 64 * 1024
# The signature, the headers and the tables of regions are in the first megabyte.
FIRST_REGION_BYTES = 2**20
MAX_REGIONS = 2047

BLOCK_TABLE = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
VIRTUAL_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
LOGICAL_SECTOR = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")

_HAS_PARENT = 2
_STATE_MASK, _FULLY_PRESENT = 7, 6
_OFFSET_MASK = ~(2**20 - 1)


def vhdx(source: ByteSource) -> int:
    """Virtual size of a VHDX. Reads the table of its blocks: none may share bytes with another, or with metadata."""
    header = _header(source)
    log_bytes, log_at = struct.unpack_from("<IQ", header, 68)
    regions = _regions(source)
    tables: list[Table] = [(0, FIRST_REGION_BYTES, "header"), *regions.values()]
    if log_bytes:
        tables.append((log_at, log_bytes, "log"))
    refuse_overlap("VHDX", tables)
    items = _items(source, *regions[METADATA][:2])
    block, flags = struct.unpack("<II", read(source, items[FILE_PARAMETERS], 8, "the VHDX metadata"))
    if flags & _HAS_PARENT:
        refuse("BackingFileRefused", "the VHDX is a differencing disk that refers to a parent; merge it first")
    (size,) = struct.unpack("<Q", read(source, items[VIRTUAL_SIZE], 8, "the VHDX metadata"))
    (sector,) = struct.unpack("<I", read(source, items[LOGICAL_SECTOR], 4, "the VHDX metadata"))
    if not 2**20 <= block <= 2**28 or block & (block - 1) or sector not in (512, 4096):
        refuse("CorruptImage", f"the VHDX has blocks of {block} bytes and sectors of {sector}; export it again")
    _check_blocks(source, regions[BLOCK_TABLE][:2], size, block, 2**23 * sector // block, tables)
    return int(size)


def _header(source: ByteSource) -> bytes:
    """The newer one of those that are right."""
    headers = [read(source, at, HEADER_BYTES, "the VHDX header") for at in HEADERS_AT]
    valid = [header for header in headers if header[:4] == b"head" and _checksum_is_right(header)]
    if not valid:
        refuse("CorruptImage", "the VHDX has no valid header; export it again")
    newest = max(valid, key=lambda header: int(struct.unpack_from("<Q", header, 8)[0]))
    if any(newest[48:64]):
        refuse(
            "CorruptImage",
            "the VHDX was not closed cleanly (its log is not empty); open and close it in Hyper-V, or "
            "repair it (qemu-img check -r all)",
        )
    return newest


def _regions(source: ByteSource) -> Mapping[UUID, Table]:
    """The table of blocks and the metadata."""
    table = read(source, REGIONS_AT, REGIONS_BYTES, "the VHDX region table")
    if table[:4] != b"regi" or not _checksum_is_right(table):
        refuse("CorruptImage", "the VHDX has no valid region table; export it again")
    (count,) = struct.unpack_from("<I", table, 8)
    names = {BLOCK_TABLE: "block table", METADATA: "metadata"}
    found: dict[UUID, Table] = {}
    for i in range(min(count, MAX_REGIONS)):
        guid, at, length = struct.unpack_from("<16sQI", table, 16 + 32 * i)
        region = UUID(bytes_le=guid)
        if region in found:
            refuse("CorruptImage", f"the VHDX has its {names[region]} twice; it is damaged or made to deceive")
        if region in names:
            found[region] = at, length, names[region]
    if len(found) < len(names):
        refuse("CorruptImage", "the VHDX has no table of blocks or no metadata; export it again")
    return found


def _items(source: ByteSource, at: int, length: int) -> Mapping[UUID, int]:
    """Where the values are that say what the disk is like."""
    table = read(source, at, REGIONS_BYTES, "the VHDX metadata")
    if table[:8] != b"metadata":
        refuse("CorruptImage", "the VHDX has no metadata table where it should be")
    (count,) = struct.unpack_from("<H", table, 10)
    items = {}
    for i in range(min(count, MAX_REGIONS)):
        guid, offset, size = struct.unpack_from("<16sII", table, 32 + 32 * i)
        if offset + size <= length:
            items[UUID(bytes_le=guid)] = at + offset
    if not {FILE_PARAMETERS, VIRTUAL_SIZE, LOGICAL_SECTOR} <= items.keys():
        refuse("CorruptImage", "the VHDX does not say how large its disk is")
    return items


def _check_blocks(
    source: ByteSource, place: tuple[int, int], size: int, block: int, blocks_each_bitmap: int, tables: list[Table]
) -> None:
    at, length = place
    blocks = -(-size // block)
    # Behind so many blocks there is an entry for a bitmap, which only differencing disks have.
    entries = blocks + max(blocks - 1, 0) // blocks_each_bitmap
    if entries > MAX_ENTRIES or entries * 8 > length:
        refuse("CorruptImage", f"the VHDX's table of blocks does not fit its size of {size} bytes; export it again")
    table = struct.iter_unpack("<Q", read(source, at, entries * 8, "the VHDX's table of blocks"))
    offsets = [
        entry & _OFFSET_MASK
        for number, (entry,) in enumerate(table)
        if entry & _STATE_MASK == _FULLY_PRESENT and (number + 1) % (blocks_each_bitmap + 1)
    ]
    refuse_bad_blocks(source, "VHDX", offsets, SECTOR_BYTES, block, tables)


def _checksum_is_right(data: bytes) -> bool:
    return _crc32c(data[:4] + bytes(4) + data[8:]) == int.from_bytes(data[4:8], "little")


def _crc32c(data: bytes) -> int:
    """The Castagnoli CRC (RFC 3720, appendix B.4), which is not that of zlib."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _crc32c_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC32C = [_crc32c_entry(value) for value in range(256)]
