"""How long a raw disk says it is: by its partition table, or by its volume where it is a CD."""

import struct
import zlib
from dataclasses import dataclass

from dvcr.errors import ImageError

SECTOR_BYTES = 512
_ISO_SECTOR_BYTES = 2048
# A CD's volume may count the run-out that was not copied from the medium.
_ISO_RUN_OUT_BYTES = 300 * _ISO_SECTOR_BYTES
_GPT_TYPE = 0xEE


@dataclass(frozen=True, slots=True)
class DeclaredSize:
    """What a disk says about its own length; zeroes where it says nothing."""

    likely_bytes: int = 0
    """Where its last partition, or its second table, ends."""
    least_bytes: int = 0
    """A disk that is shorter was cut off."""


NOTHING_DECLARED = DeclaredSize()


def declared_size(head: bytes) -> DeclaredSize:
    """Read it from the first 128 KiB."""
    return _gpt(head) or _iso(head) or _mbr(head) or NOTHING_DECLARED


def refuse_cut(declared: DeclaredSize, end_bytes: int) -> None:
    """Raise ImageError `TruncatedImage` where a disk that has `end_bytes` cannot be whole."""
    if end_bytes < declared.least_bytes:
        raise ImageError(
            f"the image is cut off: it has {end_bytes} bytes, and its partition table or volume refers to "
            f"{declared.likely_bytes}; fetch or export it again",
            reason="TruncatedImage",
        )


def has_partitions(head: bytes) -> bool:
    """Whether a partition table begins here that has entries."""
    return _gpt(head) is not None or _mbr(head) is not None or _entries(head, protective=True) != []


def _gpt(head: bytes) -> DeclaredSize | None:
    """GUID partition table (UEFI specification, 5.3): the header tells where its copy is, in the last sector."""
    for sector in (SECTOR_BYTES, 4096):
        header = head[sector : 2 * sector]
        if len(header) == sector and header.startswith(b"EFI PART"):
            (length, checksum) = struct.unpack_from("<II", header, 12)
            if 92 <= length <= sector and zlib.crc32(header[:16] + bytes(4) + header[20:length]) == checksum:
                size = (struct.unpack_from("<Q", header, 32)[0] + 1) * sector
                return DeclaredSize(size, size)
    return None


def _mbr(head: bytes) -> DeclaredSize | None:
    """A master boot record. Partitions may end behind the file where it was not padded, but not begin there."""
    entries = _entries(head, protective=False)
    if not entries:
        return None
    ends = max(start + count for start, count in entries)
    starts = max(start for start, _ in entries)
    return DeclaredSize(ends * SECTOR_BYTES, (starts + 1) * SECTOR_BYTES)


def _entries(head: bytes, *, protective: bool) -> list[tuple[int, int]]:
    if len(head) < SECTOR_BYTES or head[510:512] != b"\x55\xaa" or head[3:11] in (b"NTFS    ", b"EXFAT   "):
        return []
    found = []
    for at in range(446, 510, 16):
        status, kind, start, count = struct.unpack_from("<B3xB3xII", head, at)
        if status not in (0, 0x80):
            return []  # a boot sector of something else
        if kind and start and count and (protective or kind != _GPT_TYPE):
            found.append((start, count))
    return found


def _iso(head: bytes) -> DeclaredSize | None:
    """The primary volume descriptor of ISO 9660 (ECMA-119, 8.4)."""
    volume = head[32768 : 32768 + 2048]
    if len(volume) < 2048 or volume[:6] != b"\x01CD001":
        return None
    if volume[80:84] != volume[87:83:-1] or volume[128:130] != volume[131:129:-1]:
        return None  # each number is there in both byte orders
    size = struct.unpack_from("<I", volume, 80)[0] * struct.unpack_from("<H", volume, 128)[0]
    return DeclaredSize(size, max(0, size - _ISO_RUN_OUT_BYTES))
