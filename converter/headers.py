"""The headers of each disk format: is it safe, is it whole, how large is the disk.

Each function reads a few kilobytes (tables of offsets: a few megabytes at most) and returns the virtual size.
Everything that would make qemu open another file, or guess, is refused with an ImageError.
"""

import re
import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

from converter.source import AheadSource, ByteSource
from dvcr.errors import ImageError

Table = tuple[int, int, str]
"""Offset, length and name of a part of the metadata."""

SECTOR_BYTES = 512
# Of the tables that are looked at as a whole: enough for blocks of 1 MiB, or clusters of 4 KiB, on 2 TiB. Each takes 40
# bytes of memory while it is.
MAX_ENTRIES = 2**21 + 2**12
MAX_NAME_AT = 2**25

QCOW2_MAGIC = b"QFI\xfb"
QCOW2_CORRUPT, QCOW2_EXTERNAL_DATA, QCOW2_KNOWN_FEATURES = 2, 4, 0b11111

QCOW2_MAX_TABLE_BYTES = 32 * 2**20  # what qemu allows
QCOW2_OFFSETS = 0x00FFFFFFFFFFFE00

VMDK_MAGIC = b"KDMV"
VMDK_ZERO_GRAINS = 1 << 2
VMDK_COMPRESSED_FLAGS = 1 << 16 | 1 << 17  # compressed, and with markers that say how much
VMDK_DEFLATE = 1
VMDK_GD_AT_END = 2**64 - 1
MAX_DESCRIPTOR_BYTES = 2**20 - 1

VPC_MAGIC = b"conectix"
VPC_FIXED, VPC_DYNAMIC, VPC_DIFFERENCING = 2, 3, 4
VPC_SIZED_BY = (b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS")  # writers that trust the size, not the geometry
VPC_MAX_SECTORS = 65535 * 16 * 255
VPC_NO_BLOCK = 0xFFFFFFFF

VDI_MAGIC = 0xBEDA107F
VDI_DYNAMIC, VDI_STATIC = 1, 2
VDI_NO_BLOCK = 0xFFFFFFFE  # and above: not allocated, or discarded

VHDX_MAGIC = b"vhdxfile"


def refuse(reason: str, message: str) -> NoReturn:
    """Raise the ImageError."""
    raise ImageError(message, reason=reason)


def refuse_bomb(max_ratio: int) -> NoReturn:
    """An image that unpacks to more than it may."""
    refuse(
        "DecompressionBomb",
        f"the image unpacks to more than {max_ratio} times its size; if it is right, raise "
        "importer.max_unpacking_ratio",
    )


def read(source: ByteSource, offset_bytes: int, length_bytes: int, what: str) -> bytes:
    """Exactly that range; ImageError `TruncatedImage` naming `what` if the source ends before."""
    total = source.total_bytes
    data = b"" if total is not None and offset_bytes > total else source.read_at(offset_bytes, length_bytes)
    if len(data) != length_bytes:
        refuse(
            "TruncatedImage",
            f"the image is cut off: {what} would end at byte {offset_bytes + length_bytes}, "
            f"the image has {source.size_bytes()}; fetch or export it again",
        )
    return data


def refuse_overlap(what: str, tables: Sequence[Table]) -> None:
    """Refuse tables that share bytes: each is (offset, length, name)."""
    for (at, length, name), (next_at, _, next_name) in pairwise(sorted(tables)):
        if at + length > next_at:
            refuse("CorruptImage", f"the {what}'s {name} and {next_name} overlap; it is damaged or made to deceive")


def refuse_bad_blocks(
    source: ByteSource, what: str, offsets: list[int], least_bytes: int, block_bytes: int, tables: Sequence[Table]
) -> None:
    """Refuse blocks of data that end behind the image, share bytes with another, or with a table.

    Of the last block at least `least_bytes` must be there.
    """
    offsets.sort()
    if not offsets:
        return
    total = source.total_bytes
    if total is not None and offsets[-1] + least_bytes > total:
        refuse("TruncatedImage", f"the image is cut off: it refers to byte {offsets[-1]}, and has {total}")
    if any(second - first < block_bytes for first, second in pairwise(offsets)):
        refuse("CorruptImage", f"the {what} uses the same bytes for several places of the disk; export it again")
    for at, length, name in tables:
        before = bisect_left(offsets, at + length) - 1
        if length and before >= 0 and offsets[before] + block_bytes > at:
            refuse("CorruptImage", f"the {what} has data where its {name} is; it is damaged or made to deceive")


def qcow2(source: ByteSource) -> tuple[int, int]:
    """Virtual size of a qcow2 of version 2 or 3, and its internal snapshots (docs/interop/qcow2.txt of QEMU)."""
    header = read(source, 0, 72, "the qcow2 header")
    (version, backing_offset, backing_length, cluster_bits, size, encryption, l1_entries, l1_offset) = struct.unpack(
        ">IQIIQIIQ", header[4:48]
    )
    if version not in (2, 3):
        refuse("UnknownFormat", f"this is a qcow image of version {version}; only versions 2 and 3 are supported")
    features = 0
    if version == 3:
        (features,) = struct.unpack(">Q", read(source, 72, 8, "the qcow2 header"))
    if backing_offset:
        name = (
            source.read_at(backing_offset, min(backing_length, 200)).decode(errors="replace")
            if backing_offset < MAX_NAME_AT
            else "?"
        )
        refuse(
            "BackingFileRefused",
            f"the qcow2 refers to a backing file ({name!r}); convert it to an image that "
            "stands alone (qemu-img convert)",
        )
    if features & QCOW2_EXTERNAL_DATA:
        refuse(
            "ExternalDataFileRefused", "the qcow2 keeps its data in another file; convert it to one that stands alone"
        )
    if encryption:
        kind = {1: "AES", 2: "LUKS"}.get(encryption, f"method {encryption}")
        refuse("EncryptedImageRefused", f"the qcow2 is encrypted ({kind}); decrypt it first")
    if features & QCOW2_CORRUPT:
        refuse("CorruptImage", "the qcow2 is marked as corrupt; repair it first (qemu-img check -r all)")
    if features & ~QCOW2_KNOWN_FEATURES:
        refuse("CorruptImage", f"the qcow2 needs features that are not known ({features:#x})")
    if not 9 <= cluster_bits <= 21:
        refuse("CorruptImage", f"the qcow2 has clusters of 2^{cluster_bits} bytes; qemu knows 512 bytes to 2 MiB")
    cluster = 1 << cluster_bits
    entry_bits = 4 if features & 16 else 3
    needed = -(-size // (cluster << (cluster_bits - entry_bits)))
    if needed > MAX_ENTRIES:
        refuse(
            "CorruptImage",
            f"the qcow2 has {needed} tables of clusters; convert it to larger clusters (qemu-img convert)",
        )
    if l1_entries < needed or l1_entries * 8 > QCOW2_MAX_TABLE_BYTES or l1_offset % cluster:
        refuse("CorruptImage", "the qcow2's table of clusters does not fit its size; repair it (qemu-img check -r all)")
    (counts_at, counts_clusters, snapshots, snapshots_at) = struct.unpack(">QIIQ", header[48:72])
    tables = [
        (0, len(header), "header"),
        (l1_offset, needed * 8, "table of clusters"),
        (counts_at, counts_clusters * cluster, "table of references"),
        *([(snapshots_at, 40, "table of snapshots")] if snapshots else []),
    ]
    refuse_overlap("qcow2", [table for table in tables if table[1]])
    l1 = array("Q", read(source, l1_offset, needed * 8, "the qcow2's table of clusters"))
    if sys.byteorder == "little":
        l1.byteswap()
    offsets = [entry & QCOW2_OFFSETS for entry in l1 if entry & QCOW2_OFFSETS]
    total = source.total_bytes
    if total is not None and (len(offsets) - 1) * cluster > total:
        refuse("CorruptImage", "the qcow2 has more tables than its file could hold; repair it (qemu-img check -r all)")
    if snapshots and not offsets:
        refuse_empty(snapshots)
    # The last table may be cut where the disk ends.
    refuse_bad_blocks(source, "qcow2", offsets, 8, cluster, [table for table in tables if table[2] != "header"])
    return int(size) // SECTOR_BYTES * SECTOR_BYTES, int(snapshots)


def refuse_empty(snapshots: int) -> NoReturn:
    """A qcow2 that has nothing in it but snapshots."""
    refuse(
        "SnapshotsRefused",
        f"the qcow2's disk is empty, all it holds is in its {snapshots} internal snapshots; make one of them an "
        "image of its own (qemu-img convert -l NAME)",
    )


@dataclass(frozen=True, slots=True)
class VmdkHeader:
    """What the header of a sparse VMDK says, or its footer, where the directory is found from there."""

    size_bytes: int
    """Of the disk."""
    grain_bytes: int
    table_grains: int
    """Grains that one table has entries for."""
    directory: tuple[int, ...]
    """Where each table is; 0 for none."""
    from_end: bool
    compressed: bool
    zero_grains: bool
    """Whether 1 stands for a grain of zeroes."""
    ahead: tuple[tuple[int, bytes], ...] = ()
    """What was read ahead for it, by offset."""


def vmdk(source: ByteSource) -> VmdkHeader:
    """A sparse VMDK in one file (VMware, Virtual Disk Format 1.1, and QEMU's block/vmdk.c).

    What is at the end of the file is read ahead: the caller has to `confirm` it.
    """
    ahead = AheadSource(source)
    header = read(source, 0, SECTOR_BYTES, "the VMDK header")
    from_end = struct.unpack_from("<Q", header, 56)[0] == VMDK_GD_AT_END
    if from_end:
        tail = read(ahead, max(0, source.size_bytes() - 1536), 1536, "the VMDK footer")
        footer = tail[512:1024]
        if not footer.startswith(VMDK_MAGIC) or any(tail[1024:]) or source.size_bytes() % SECTOR_BYTES:
            refuse(
                "TruncatedImage", "the image is cut off: a streamOptimized VMDK ends with a footer, this one does not"
            )
        # The capacity, and where the descriptor is, must be what is checked here.
        if footer[12:20] != header[12:20] or footer[28:44] != header[28:44]:
            refuse("CorruptImage", "the VMDK's header and footer contradict each other")
        header = footer
    (version, flags, capacity, grain, descriptor_at, descriptor_sectors, entries, _, directory_at) = struct.unpack_from(
        "<IIQQQQIQQ", header, 4
    )
    if version not in (1, 2, 3):
        refuse("UnknownFormat", f"this is a VMDK of version {version}; only versions 1 to 3 are supported")
    if not capacity or not descriptor_at or not descriptor_sectors:
        refuse(
            "MultiExtentRefused",
            "this VMDK is only a part or a description of a disk; export it as one file "
            "(monolithicSparse or streamOptimized)",
        )
    _check_vmdk_text(source, descriptor_at, descriptor_sectors)
    compressed = struct.unpack_from("<H", header, 77)[0] == VMDK_DEFLATE
    if not 1 <= grain <= 2**16 or grain & (grain - 1) or (compressed and not 8 <= grain <= 2**13):
        refuse("CorruptImage", f"the VMDK has grains of {grain} sectors; export it again")
    if not 1 <= entries <= 512:
        refuse("CorruptImage", f"the VMDK has tables of {entries} grains; export it again")
    if flags & VMDK_COMPRESSED_FLAGS != (VMDK_COMPRESSED_FLAGS if compressed else 0):
        refuse("CorruptImage", "the VMDK contradicts itself as to whether it is compressed; export it again")
    directory_entries = -(-capacity // (grain * entries))
    if directory_entries > MAX_ENTRIES // 2:
        refuse("CorruptImage", f"the VMDK's directory has {directory_entries} tables; export it again")
    directory = (directory_at * SECTOR_BYTES, directory_entries * 4, "grain directory")
    header_and_text = (0, SECTOR_BYTES, "header"), (descriptor_at * SECTOR_BYTES, SECTOR_BYTES, "descriptor")
    refuse_overlap("VMDK", [*header_and_text, directory])
    found = struct.iter_unpack("<I", read(ahead if from_end else source, *directory[:2], "the VMDK's grain directory"))
    offsets = tuple(at * SECTOR_BYTES for (at,) in found)
    used = [at for at in offsets if at]
    refuse_bad_blocks(source, "VMDK", used, 4, entries * 4, [*header_and_text, directory])
    return VmdkHeader(
        size_bytes=capacity * SECTOR_BYTES,
        grain_bytes=grain * SECTOR_BYTES,
        table_grains=entries,
        directory=offsets,
        from_end=from_end,
        compressed=compressed,
        zero_grains=bool(flags & VMDK_ZERO_GRAINS),
        ahead=tuple(ahead.taken),
    )


def _check_vmdk_text(source: ByteSource, descriptor_at: int, descriptor_sectors: int) -> None:
    # qemu looks at twenty sectors whatever the header says.
    length = min(max(descriptor_sectors, 20) * SECTOR_BYTES, MAX_DESCRIPTOR_BYTES)
    total = source.total_bytes
    if total is None or descriptor_at * SECTOR_BYTES < total:
        text = source.read_at(descriptor_at * SECTOR_BYTES, length)
    else:
        text = b""
    if len(text) < SECTOR_BYTES:
        refuse("TruncatedImage", "the image is cut off: the VMDK's descriptor is not in it; fetch or export it again")
    check_vmdk_descriptor(text.split(b"\0")[0].decode("latin-1"))


def check_vmdk_descriptor(text: str) -> None:
    """Refuse a descriptor that is not that of one sparse file which stands alone."""
    found = re.search(r'^\s*createType\s*=\s*"([^"]*)"', text, re.MULTILINE | re.IGNORECASE)
    kind = found.group(1) if found else ""
    extents = re.findall(r"^\s*(?:RW|RDONLY|NOACCESS)\s.*$", text, re.MULTILINE | re.IGNORECASE)
    if kind.lower() not in ("monolithicsparse", "streamoptimized") or len(extents) != 1:
        refuse(
            "MultiExtentRefused",
            f"a VMDK of type {kind[:40]!r} with {len(extents)} extents needs other files; export "
            "it as one file (monolithicSparse or streamOptimized)",
        )
    parent = re.search(r"^\s*parentCID\s*=\s*(\w+)", text, re.MULTILINE | re.IGNORECASE)
    if "parentfilenamehint" in text.lower() or (parent and parent.group(1).lower() != "ffffffff"):
        refuse("BackingFileRefused", "the VMDK is a snapshot that refers to a parent; export the whole disk")
    if re.search(r"encryption\.", text, re.IGNORECASE):
        refuse("EncryptedImageRefused", "the VMDK is encrypted; decrypt it first")


def is_fixed_vhd(footer: bytes) -> bool:
    """Whether the last sector of a file says that it is a VHD of fixed size."""
    # The magic alone could be data that a disk happens to end with; kind and checksum could not.
    return footer.startswith(VPC_MAGIC) and _vpc_checksum_is_right(footer) and _vpc_kind(footer) == VPC_FIXED


def fixed_vhd_size(footer: bytes, file_bytes: int) -> int:
    """Virtual size of a VHD of fixed size, as qemu computes it."""
    size, data_bytes = _vpc_size(footer), file_bytes - SECTOR_BYTES
    if size > data_bytes:
        refuse(
            "TruncatedImage", f"the image is cut off: the VHD says {size} bytes and has {data_bytes}; fetch it again"
        )
    if not size:
        refuse("CorruptImage", "the disk in the VHD is empty: it has no bytes")
    return size


def vpc(source: ByteSource) -> int:
    """Virtual size of a dynamic VHD, as qemu computes it."""
    footer = read(source, 0, SECTOR_BYTES, "the VHD footer")
    if not _vpc_checksum_is_right(footer):
        refuse("CorruptImage", "the checksum of the VHD footer is wrong; fetch or export it again")
    kind = _vpc_kind(footer)
    if kind == VPC_DIFFERENCING:
        refuse("BackingFileRefused", "the VHD is a differencing disk that refers to a parent; merge it first")
    if kind != VPC_DYNAMIC:
        refuse("CorruptImage", f"the VHD is of type {kind}; only fixed and dynamic disks are supported")
    size = _vpc_size(footer)
    (table_at,) = struct.unpack_from(">Q", footer, 16)
    dynamic = read(source, table_at, 1024, "the VHD header")
    if dynamic[:8] != b"cxsparse":
        refuse("CorruptImage", "the VHD has no header of a dynamic disk where it should be")
    bat_at, _, entries, block = struct.unpack_from(">QIII", dynamic, 16)
    if block < SECTOR_BYTES or block & (block - 1) or entries * block < size:
        refuse("CorruptImage", "the VHD's block table does not fit its size; export it again")
    tables = [(0, SECTOR_BYTES, "footer"), (table_at, 1024, "header"), (bat_at, entries * 4, "block table")]
    refuse_overlap("VHD", tables)
    bat = read(source, bat_at, entries * 4, "the VHD's block table") if entries <= MAX_ENTRIES else b""
    if not bat:
        refuse("CorruptImage", f"the VHD has {entries} blocks; export it again with larger ones")
    bitmap = -(-(block // SECTOR_BYTES // 8) // SECTOR_BYTES) * SECTOR_BYTES
    used = [sector * SECTOR_BYTES for (sector,) in struct.iter_unpack(">I", bat) if sector != VPC_NO_BLOCK]
    refuse_bad_blocks(source, "VHD", used, bitmap + SECTOR_BYTES, bitmap + block, tables)
    return size


def _vpc_checksum_is_right(footer: bytes) -> bool:
    unsigned = footer[:64] + bytes(4) + footer[68:]
    return bool(struct.unpack_from(">I", footer, 64)[0] == ~sum(unsigned) & 0xFFFFFFFF)


def _vpc_kind(footer: bytes) -> int:
    return int(struct.unpack_from(">I", footer, 60)[0])


def _vpc_size(footer: bytes) -> int:
    (current_size,) = struct.unpack_from(">Q", footer, 48)
    cylinders, heads, sectors = struct.unpack_from(">HBB", footer, 56)
    total = cylinders * heads * sectors
    if footer[28:32] in VPC_SIZED_BY or total == VPC_MAX_SECTORS:
        total = current_size // SECTOR_BYTES
    return int(total * SECTOR_BYTES)


def vdi(source: ByteSource) -> int:
    """Virtual size of a VDI of version 1.1."""
    header = read(source, 0, SECTOR_BYTES, "the VDI header")
    version, _, kind = struct.unpack_from("<III", header, 0x44)
    if version != 0x00010001:
        refuse("UnknownFormat", f"this is a VDI of version {version >> 16}.{version & 0xFFFF}; only 1.1 is supported")
    if kind not in (VDI_DYNAMIC, VDI_STATIC) or any(header[0x1A8:0x1C8]):
        refuse(
            "BackingFileRefused", "the VDI is a differencing or undo disk that refers to a parent; clone the whole disk"
        )
    bmap_at, data_at = struct.unpack_from("<II", header, 0x154)
    size, block, _, blocks, allocated = struct.unpack_from("<QIIII", header, 0x170)
    if block != 2**20 or blocks * block < size or bmap_at % SECTOR_BYTES or data_at % SECTOR_BYTES:
        refuse("CorruptImage", "the VDI's block table does not fit its size")
    if blocks > MAX_ENTRIES:
        refuse(
            "VirtualSizeTooLarge", f"the VDI has {blocks} blocks; one of more than 2 TiB has to be converted to qcow2"
        )
    if allocated > blocks:
        refuse("CorruptImage", f"the VDI has {allocated} of {blocks} blocks allocated; export it again")
    tables = [(0, SECTOR_BYTES, "header"), (bmap_at, blocks * 4, "block table")]
    refuse_overlap("VDI", tables)
    table = struct.iter_unpack("<I", read(source, bmap_at, blocks * 4, "the VDI's block table"))
    offsets = [data_at + number * block for (number,) in table if number < VDI_NO_BLOCK]
    refuse_bad_blocks(source, "VDI", offsets, SECTOR_BYTES, block, tables)
    return -(-int(size) // SECTOR_BYTES) * SECTOR_BYTES
