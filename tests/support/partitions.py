"""Partition tables, written by hand."""

import struct
import zlib

SECTOR_BYTES = 512


def with_mbr(disk: bytes) -> bytes:
    """A first partition of one sector, and a second for all but the first half."""
    sectors = len(disk) // SECTOR_BYTES
    half = sectors // 2
    entries = struct.pack("<B3xB3xII", 0x80, 0x83, 1, 1) + struct.pack(
        "<B3xB3xII", 0, 0x83, half + 8, sectors - half - 8
    )
    return disk[:446] + entries.ljust(64, b"\0") + b"\x55\xaa" + disk[512:]


def with_gpt(disk: bytes) -> bytes:
    """A protective MBR and a header that places its copy in the last sector."""
    last = len(disk) // SECTOR_BYTES - 1
    mbr = disk[:446] + struct.pack("<B3xB3xII", 0, 0xEE, 1, last).ljust(64, b"\0") + b"\x55\xaa"
    fields = (b"EFI PART", 0x10000, 92, 0, 0, 1, last, 34, last - 33, bytes(16), 2, 128, 128, 0)
    header = struct.pack("<8sIIIIQQQQ16sQIII", *fields)
    header = header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:]
    return mbr + header.ljust(SECTOR_BYTES, b"\0") + disk[2 * SECTOR_BYTES :]
