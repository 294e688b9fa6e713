"""Images that must not be imported, and the reason that each is refused with.

Built from images of qemu-img that are whole; each names the bytes that it spoils.
"""

import bz2
import gzip
import lzma
import struct
import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import zstandard

from tests.support.archives import tar_of
from tests.support.images import build_image, qemu_img
from tests.support.partitions import with_gpt, with_mbr

MIB = 2**20
CANARY = "/tmp/dvcr-canary.raw"  # fixed, so that the images can name it; the test makes it where it may
CLUSTER = 65536
BLOCK_TABLE, METADATA = "2dc27766-f623-4200-9d64-115e9bfd4a08", "8b7ca206-4790-4b9a-b8fe-575f050f886e"


@dataclass(frozen=True)
class Hostile:
    """An image and what becomes of it."""

    reason: str
    build: Callable[[], bytes]
    settings: dict[str, int] = field(default_factory=dict)
    """Of the importer, where the default would take long to reach."""


@cache
def disk() -> bytes:
    """A disk with a boot sector and little else."""
    out = bytearray(4 * MIB)
    out[510:512] = b"\x55\xaa"
    for at in range(4096, len(out), 256 * 1024):
        out[at : at + 4096] = bytes(range(256)) * 16
    return bytes(out)


@cache
def whole(*options: str) -> bytes:
    """An image that is right."""
    with TemporaryDirectory() as folder:
        return build_image(Path(folder), disk(), *options)


@cache
def created(*options: str, size: str = "4M") -> bytes:
    """What `qemu-img create` makes."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "image"
        qemu_img("create", *options, file, size)
        return file.read_bytes()


def spoiled(image: bytes, *changes: tuple[int, bytes]) -> bytes:
    """With other bytes at these places."""
    out = bytearray(image)
    for at, data in changes:
        out[at : at + len(data)] = data
    return bytes(out)


def be64(value: int) -> bytes:
    return struct.pack(">Q", value)


def be32(value: int) -> bytes:
    return struct.pack(">I", value)


def le64(value: int) -> bytes:
    return struct.pack("<Q", value)


def le32(value: int) -> bytes:
    return struct.pack("<I", value)


def qcow2(*changes: tuple[int, bytes]) -> bytes:
    return spoiled(whole("qcow2"), *changes)


def backing(name: str, image: bytes = b"") -> bytes:
    """Refers to another file by that name."""
    text = name.encode()
    return spoiled(image or whole("qcow2"), (0x300, text), (8, be64(0x300) + be32(len(text))))


def l1_at(image: bytes) -> int:
    return int(struct.unpack_from(">Q", image, 40)[0])


def l2_at(image: bytes) -> int:
    return int(struct.unpack_from(">Q", image, l1_at(image))[0]) & 0x00FFFFFFFFFFFE00


def qcow2_tables(l1: Callable[[int], int] | None = None, l2: Callable[[int], list[int]] | None = None) -> bytes:
    """With other entries in its tables: given the file's length."""
    image = whole("qcow2")
    if l1 is not None:
        image = spoiled(image, (l1_at(image), be64(l1(len(image)) | 1 << 63)))
    if l2 is not None:
        image = spoiled(image, (l2_at(image), b"".join(be64(entry) for entry in l2(len(image)))))
    return image


def two_tables_in_one() -> bytes:
    """A disk of 1 GiB, of which both halves have the same table."""
    image = created("-f", "qcow2", size="1G")
    image = image.ljust(6 * CLUSTER, b"\0")
    return spoiled(image, (l1_at(image), be64(4 * CLUSTER | 1 << 63) * 2))


def snapshot_only(*, table: bool) -> bytes:
    """All data belong to a snapshot; the disk itself is empty: it has no table, or one of nothing."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "image.qcow2"
        file.write_bytes(whole("qcow2"))
        qemu_img("snapshot", "-c", "before", file)
        image = file.read_bytes()
    end = -(-len(image) // CLUSTER) * CLUSTER
    entry = end | 1 << 63 if table else 0
    return spoiled(image.ljust(end + CLUSTER, b"\0"), (l1_at(image), be64(entry)))


def one_compressed_cluster() -> bytes:
    """Each entry of the table names the same compressed cluster."""
    image = whole("qcow2", "-c")
    (entry,) = struct.unpack_from(">Q", image, l2_at(image))
    return spoiled(image, (l2_at(image), be64(entry) * 64))


def one_cluster_in_extended_entries() -> bytes:
    """A disk of 1 GiB, all in one cluster of 128 KiB; qemu-img reads it, since its entries are extended."""
    cluster = 2 * CLUSTER
    image = created("-f", "qcow2", "-o", "extended_l2=on,cluster_size=128k", size="1G")
    end = -(-len(image) // cluster) * cluster
    table = (be64(end + cluster | 1 << 63) + be64(0xFFFFFFFF)) * (cluster // 16)
    return spoiled(image, (l1_at(image), be64(end | 1 << 63))).ljust(end, b"\0") + table + b"x" * cluster


def vmdk(*changes: tuple[int, bytes]) -> bytes:
    return spoiled(whole("vmdk"), *changes)


def vmdk_text(old: bytes, new: bytes) -> bytes:
    """With another descriptor."""
    image = whole("vmdk")
    at = image.index(b"# Disk DescriptorFile")
    text = image[at : at + 20 * 512]
    assert old in text
    return spoiled(image, (at, text.replace(old, new).rstrip(b"\0").ljust(20 * 512, b"\0")[: 20 * 512]))


def one_grain() -> bytes:
    """A disk of 1 GiB whose tables name one grain for all places."""
    image = created("-f", "vmdk", size="1G")
    end = -(-len(image) // 512) * 512
    (directory,) = struct.unpack_from("<Q", image, 56)
    tables = struct.unpack_from("<32I", image, directory * 512)
    return spoiled(image.ljust(end, b"\0"), *((at * 512, le32(end // 512) * 512) for at in tables)) + b"x" * CLUSTER


def one_compressed_grain() -> bytes:
    """Each place of the disk is in the same compressed grain."""
    image = whole("vmdk", "-o", "subformat=streamOptimized")
    (directory,) = struct.unpack_from("<Q", image, 56)
    (table,) = struct.unpack_from("<I", image, directory * 512)
    (entry,) = struct.unpack_from("<I", image, table * 512)
    return spoiled(image, (table * 512, le32(entry) * 64))


def vdi(*changes: tuple[int, bytes]) -> bytes:
    return spoiled(whole("vdi"), *changes)


def vdi_with_a_full_table() -> bytes:
    """Two million blocks, each of its own place, of which the file has none."""
    image = created("-f", "vdi", size="2T")
    (at,) = struct.unpack_from("<I", image, 0x154)
    numbers = array("I", range(2**21))
    return spoiled(image, (at, numbers.tobytes()))


def vhd(*changes: tuple[int, bytes], image: bytes = b"") -> bytes:
    """With other fields in the footer's copy at the start, and its checksum right again."""
    image = spoiled(image or whole("vpc"), *changes)
    return spoiled(image, (64, be32(~sum(image[:64] + image[68:512]) & 0xFFFFFFFF)))


def vhd_header(*changes: tuple[int, bytes]) -> bytes:
    """With other fields in the header of a dynamic disk, whose checksum nobody looks at."""
    return spoiled(whole("vpc"), *((512 + at, data) for at, data in changes))


def vhdx(*changes: tuple[int, bytes]) -> bytes:
    return spoiled(whole("vhdx"), *changes)


def crc32c(data: bytes) -> int:
    """Bit by bit (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def vhdx_summed(image: bytes) -> bytes:
    """With checksums that are right again: of both headers, and of the table of regions."""
    for at, length in ((64 * 1024, 4096), (128 * 1024, 4096), (192 * 1024, 64 * 1024)):
        image = spoiled(image, (at + 4, bytes(4)))
        image = spoiled(image, (at + 4, le32(crc32c(image[at : at + length]))))
    return image


def vhdx_log() -> bytes:
    """With a log that would have to be replayed, in both headers."""
    return vhdx_summed(vhdx((64 * 1024 + 48, b"\x01" * 16), (128 * 1024 + 48, b"\x01" * 16)))


def vhdx_region(image: bytes, guid: str) -> int:
    """Where in the table of regions the entry's offset is."""
    return image.index(UUID(guid).bytes_le, 192 * 1024) + 16


def one_vhdx_block() -> bytes:
    """A disk of 64 MiB, all in one block of 1 MiB."""
    image = created("-f", "vhdx", "-o", "block_size=1M", size="64M")
    (table,) = struct.unpack_from("<Q", image, vhdx_region(image, BLOCK_TABLE))
    end = -(-len(image) // MIB) * MIB
    return spoiled(image.ljust(end, b"\0"), (table, le64(end | 6) * 64)) + b"x" * MIB


def vhdx_regions_in_one() -> bytes:
    """Its table of blocks is where its metadata are."""
    image = whole("vhdx")
    (metadata,) = struct.unpack_from("<Q", image, vhdx_region(image, METADATA))
    return vhdx_summed(spoiled(image, (vhdx_region(image, BLOCK_TABLE), le64(metadata))))


def fixed_vhd(**fields: int) -> bytes:
    """With another size in its footer."""
    image = whole("vpc", "-o", "subformat=fixed,force_size=on")
    footer = spoiled(image[-512:], (48, be64(fields["size"])))
    footer = spoiled(footer, (64, be32(~sum(footer[:64] + footer[68:]) & 0xFFFFFFFF)))
    return image[:-512] + footer


def iso(data: bytes = b"") -> bytes:
    volume = b"\x01CD001\x01"
    return spoiled((data or disk()).ljust(MIB, b"\0"), (32768, volume.ljust(2048, b"\0")))


def zstd(data: bytes, **parameters: int) -> bytes:
    chosen = zstandard.ZstdCompressionParameters(**parameters)
    return zstandard.ZstdCompressor(compression_params=chosen).compress(data)


def zstd_bomb() -> bytes:
    """One frame of a great many blocks of 128 KiB, each told by four bytes (RFC 8878, 3.1.1.2)."""
    frame = b"\x28\xb5\x2f\xfd\x00\x58"  # no length, a window of 2 MiB
    block = (131072 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    return frame + block * 2**16


def xz_bomb(times: int) -> bytes:
    """Streams of 64 MiB of zeroes, one after the other."""
    return lzma.compress(bytes(64 * MIB), preset=0) * times


def bz2_bomb() -> bytes:
    return bz2.compress(bytes(128 * MIB)) * 40


def xz_with_large_dictionary() -> bytes:
    """Made with a dictionary of 16 MiB, and then claims one of 1.5 GiB."""
    image = bytearray(lzma.compress(disk(), filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}]))
    size = (image[12] + 1) * 4
    header = image[12 : 12 + size - 4]
    at = bytes(header).index(b"\x21\x01") + 2
    header[at] = 39
    image[12 : 12 + size] = header + struct.pack("<I", zlib.crc32(bytes(header)))
    return bytes(image)


HOSTILE: dict[str, Hostile] = {
    # What would make the converter read another file.
    "qcow2 with a backing file": Hostile("BackingFileRefused", lambda: backing(CANARY)),
    "qcow2 with a relative backing file": Hostile("BackingFileRefused", lambda: backing("../../etc/passwd")),
    "qcow2 with a backing file as json": Hostile(
        "BackingFileRefused", lambda: backing('json:{"driver":"raw","file.filename":"' + CANARY + '"}')
    ),
    "qcow2 with a backing file on the network": Hostile("BackingFileRefused", lambda: backing("nbd://127.0.0.1:1/x")),
    "qcow2 with a backing file of format raw": Hostile("BackingFileRefused", lambda: backing(f"raw:file:{CANARY}")),
    "qcow2 of version 2 with a backing file": Hostile(
        "BackingFileRefused", lambda: backing(CANARY, whole("qcow2", "-o", "compat=0.10"))
    ),
    "qcow2 with a backing file past its end": Hostile("BackingFileRefused", lambda: qcow2((8, be64(2**62) + be32(9)))),
    "qcow2 with an external data file": Hostile("ExternalDataFileRefused", lambda: qcow2((72, be64(4)))),
    "vmdk with a parent": Hostile(
        "BackingFileRefused", lambda: vmdk_text(b"parentCID=ffffffff", b"parentCID=12345678")
    ),
    "vmdk with a hint at its parent": Hostile(
        "BackingFileRefused", lambda: vmdk_text(b"createType", b'parentFileNameHint="%s"\ncreateType' % CANARY.encode())
    ),
    "vhd that differs from a parent": Hostile("BackingFileRefused", lambda: vhd((60, be32(4)))),
    "vhdx that differs from a parent": Hostile(
        "BackingFileRefused",
        lambda: _vhdx_parent(),  # noqa: PLW0108  # defined below
    ),
    "vdi that differs from a parent": Hostile("BackingFileRefused", lambda: vdi((0x4C, le32(4)))),
    "vmdk descriptor alone": Hostile(
        "MultiExtentRefused", lambda: b'# Disk DescriptorFile\nversion=1\nRW 20 FLAT "%s" 0\n' % CANARY.encode()
    ),
    "vmdk descriptor with a byte order of its own": Hostile(
        "MultiExtentRefused", lambda: b'\n \n# dISK dESCRIPTORFILE\nRW 20 FLAT "%s" 0\n' % CANARY.encode()
    ),
    "vmdk with a flat extent": Hostile(
        "MultiExtentRefused",
        lambda: vmdk_text(b"RW 8192 SPARSE", b'RW 8 FLAT "%s" 0\nRW 8184 SPARSE' % CANARY.encode()),
    ),
    "vmdk of another type": Hostile("MultiExtentRefused", lambda: vmdk_text(b"monolithicSparse", b"monolithicFlat")),
    "vmdk of half a disk": Hostile(
        "MultiExtentRefused", lambda: vmdk_text(b"monolithicSparse", b"twoGbMaxExtentSparse")
    ),
    "vmdk without a capacity": Hostile("MultiExtentRefused", lambda: vmdk((12, bytes(8)))),
    # Encrypted.
    "qcow2 encrypted with AES": Hostile("EncryptedImageRefused", lambda: qcow2((32, be32(1)))),
    "qcow2 encrypted with LUKS": Hostile("EncryptedImageRefused", lambda: qcow2((32, be32(2)))),
    "luks": Hostile("EncryptedImageRefused", lambda: b"LUKS\xba\xbe\0\x02" + disk()[8:]),
    "vmdk that is encrypted": Hostile(
        "EncryptedImageRefused", lambda: vmdk_text(b"# Extent", b'encryption.keySafe = "x"\n# Extent')
    ),
    # Tables that lie.
    "qcow2 marked as corrupt": Hostile("CorruptImage", lambda: qcow2((72, be64(2)))),
    "qcow2 with an unknown feature": Hostile("CorruptImage", lambda: qcow2((72, be64(1 << 40)))),
    "qcow2 with huge clusters": Hostile("CorruptImage", lambda: qcow2((20, be32(63)))),
    "qcow2 with a table of 32 GiB": Hostile("CorruptImage", lambda: qcow2((36, be32(2**32 - 1)))),
    "qcow2 whose table is its header": Hostile("CorruptImage", lambda: qcow2((40, be64(0)))),
    "qcow2 whose table is its table of references": Hostile("CorruptImage", lambda: qcow2((40, whole("qcow2")[48:56]))),
    "qcow2 whose second table is its first": Hostile(
        "CorruptImage", lambda: qcow2_tables(l1=lambda _: l1_at(whole("qcow2")))
    ),
    "qcow2 with one table for two parts": Hostile("CorruptImage", two_tables_in_one),
    "qcow2 with one cluster for all places": Hostile(
        "CorruptImage", lambda: qcow2_tables(l2=lambda _: [5 * CLUSTER | 1 << 63] * 64)
    ),
    "qcow2 with clusters that are not aligned": Hostile(
        "CorruptImage", lambda: qcow2_tables(l2=lambda _: [5 * CLUSTER + 512 | 1 << 63])
    ),
    "qcow2 with a table past its end": Hostile("TruncatedImage", lambda: qcow2_tables(l1=lambda _: 2**40)),
    "qcow2 with clusters past its end": Hostile(
        "TruncatedImage", lambda: qcow2_tables(l2=lambda size: [size // CLUSTER * CLUSTER + 2**30 | 1 << 63])
    ),
    "qcow2 with a table far away": Hostile("TruncatedImage", lambda: qcow2((40, be64(2**62)))),
    "qcow2 of which all is in a snapshot": Hostile("SnapshotsRefused", lambda: snapshot_only(table=False)),
    "qcow2 with a table of nothing beside a snapshot": Hostile("SnapshotsRefused", lambda: snapshot_only(table=True)),
    "qcow2 with one compressed cluster for all places": Hostile("CorruptImage", one_compressed_cluster),
    "qcow2 with extended entries and one cluster for all places": Hostile(
        "CorruptImage", one_cluster_in_extended_entries
    ),
    "qcow2 of nothing": Hostile("CorruptImage", lambda: created("-f", "qcow2", size="0")),
    "vmdk whose directory is its header": Hostile("CorruptImage", lambda: vmdk((56, le64(0)))),
    "vmdk with grains of two terabytes": Hostile("CorruptImage", lambda: vmdk((20, le64(2**32)))),
    "vmdk with tables of billions": Hostile("CorruptImage", lambda: vmdk((44, le32(2**32 - 1)))),
    "vmdk whose directory is past its end": Hostile("TruncatedImage", lambda: vmdk((56, le64(2**40)))),
    "vmdk with one grain for all places": Hostile("CorruptImage", one_grain),
    "stream-optimized vmdk with one grain for all places": Hostile("CorruptImage", one_compressed_grain),
    "stream-optimized vmdk that denies it": Hostile(
        "CorruptImage", lambda: spoiled(whole("vmdk", "-o", "subformat=streamOptimized"), (77, b"\0\0"))
    ),
    "vdi with one block for all places": Hostile(
        "CorruptImage", lambda: vdi((struct.unpack_from("<I", whole("vdi"), 0x154)[0], bytes(16)))
    ),
    "vdi of two million blocks": Hostile("TruncatedImage", vdi_with_a_full_table),
    "vhd with four million blocks": Hostile("CorruptImage", lambda: vhd_header((28, be32(2**22)), (32, be32(2**21)))),
    "vdi with a table in its header": Hostile("CorruptImage", lambda: vdi((0x154, le32(0)))),
    "vdi with blocks past its end": Hostile(
        "TruncatedImage", lambda: vdi((struct.unpack_from("<I", whole("vdi"), 0x154)[0], le32(2**30)))
    ),
    "vhd with a wrong checksum": Hostile("CorruptImage", lambda: spoiled(whole("vpc"), (64, b"\0\0\0\0"))),
    "vhd with one block for all places": Hostile("CorruptImage", lambda: spoiled(whole("vpc"), (1536, be32(4) * 2))),
    "vhd with a table in its footer": Hostile("CorruptImage", lambda: vhd((16, be64(0)))),
    "vhd with fewer bytes than it says": Hostile("TruncatedImage", lambda: fixed_vhd(size=2**40)),
    "vhd with many more bytes than it says": Hostile(
        "CorruptImage", lambda: spoiled(bytes(16 * MIB), (510, b"\x55\xaa")) + fixed_vhd(size=512)
    ),
    "vhdx with a log": Hostile("CorruptImage", vhdx_log),
    "vhdx with wrong checksums": Hostile("CorruptImage", lambda: vhdx((64 * 1024 + 8, b"x"), (128 * 1024 + 8, b"x"))),
    "vhdx with a wrong checksum of its regions": Hostile("CorruptImage", lambda: vhdx((192 * 1024 + 4, le32(1)))),
    "vhdx with one block for all places": Hostile("CorruptImage", one_vhdx_block),
    "vhdx whose table of blocks is its metadata": Hostile("CorruptImage", vhdx_regions_in_one),
    "vhdx without headers": Hostile("CorruptImage", lambda: vhdx((64 * 1024, bytes(4)), (128 * 1024, bytes(4)))),
    # Cut off.
    "qcow2 cut off": Hostile("TruncatedImage", lambda: whole("qcow2")[: 6 * CLUSTER]),
    "compressed qcow2 cut off": Hostile("TruncatedImage", lambda: whole("qcow2", "-c")[:-900]),
    "stream-optimized vmdk cut off": Hostile(
        "TruncatedImage", lambda: _first_half(whole("vmdk", "-o", "subformat=streamOptimized"))
    ),
    "raw disk cut off": Hostile("TruncatedImage", lambda: with_gpt(disk())[: 3 * MIB]),
    "raw disk cut off before a partition": Hostile("TruncatedImage", lambda: with_mbr(disk())[:MIB]),
    # Too large.
    "qcow2 of 3 TiB": Hostile("VirtualSizeTooLarge", lambda: created("-f", "qcow2", size="3T")),
    "qcow2 of exabytes": Hostile("CorruptImage", lambda: qcow2((24, be64(2**62)))),
    "vdi of 3 TiB": Hostile("VirtualSizeTooLarge", lambda: created("-f", "vdi", size="3T")),
    "gz of more than the limit": Hostile(
        "VirtualSizeTooLarge", lambda: gzip.compress(disk()), {"max_virtual_size_bytes": 2 * MIB}
    ),
    "gz that unpacks to more than the limit": Hostile(
        "DecompressionBomb", lambda: gzip.compress(disk()), {"max_unpacked_bytes": 2 * MIB}
    ),
    "bz2 bomb": Hostile("DecompressionBomb", lambda: bz2.compress(disk()) + bz2_bomb()),
    "zstd bomb": Hostile("DecompressionBomb", lambda: zstd(disk()) + zstd_bomb()),
    "xz bomb": Hostile("DecompressionBomb", lambda: lzma.compress(disk()) + xz_bomb(8), {"max_unpacking_ratio": 1000}),
    "zstd with a window of 1 GiB": Hostile(
        "WindowTooLarge", lambda: b"\x28\xb5\x2f\xfd\x00" + bytes([20 << 3]) + bytes(64)
    ),
    "xz with a dictionary of 1.5 GiB": Hostile("WindowTooLarge", xz_with_large_dictionary),
    # Packed twice, or not as it says.
    "gz in gz": Hostile("NestedCompressionRefused", lambda: gzip.compress(gzip.compress(disk()))),
    "xz in zst in bz2": Hostile("NestedCompressionRefused", lambda: bz2.compress(zstd(lzma.compress(disk())))),
    "gz in a tar in gz": Hostile(
        "NestedCompressionRefused", lambda: gzip.compress(tar_of(("a.img", gzip.compress(disk()))))
    ),
    "tar in a tar": Hostile("NestedCompressionRefused", lambda: tar_of(("a.img", tar_of(("b.img", disk()))))),
    "garbage behind gz": Hostile("CorruptImage", lambda: gzip.compress(disk()) + b"garbage"),
    "gz cut off": Hostile("TruncatedImage", lambda: gzip.compress(disk())[:-4]),
    "gz with a wrong checksum": Hostile(
        "CorruptImage", lambda: spoiled(gzip.compress(disk()), (-8 % 2**63, b""))[:-8] + bytes(8)
    ),
    "ova with two disks": Hostile("MultipleDisksRefused", lambda: tar_of(("a.vmdk", disk()), ("b.vmdk", disk()))),
    "ova with a backing file in its disk": Hostile("BackingFileRefused", lambda: tar_of(("a.vmdk", backing(CANARY)))),
    "ova without a disk": Hostile("UnknownFormat", lambda: tar_of(("a.ovf", b"<Envelope/>"))),
    "ova with a link instead of a disk": Hostile("UnknownFormat", lambda: tar_of(("a.vmdk", b""), links_to=CANARY)),
    "ova cut off": Hostile("TruncatedImage", lambda: tar_of(("a.img", disk()))[:MIB]),
    "qcow2 with a backing file in xz": Hostile("BackingFileRefused", lambda: lzma.compress(backing(CANARY))),
    # Two things at once.
    "qcow2 that is an iso": Hostile("AmbiguousFormat", lambda: iso(whole("qcow2"))),
    "qcow2 that is a disk": Hostile("AmbiguousFormat", lambda: qcow2((446, with_mbr(disk())[446:512]))),
    "vmdk that is an iso": Hostile("AmbiguousFormat", lambda: iso(whole("vmdk"))),
    "gz that is an iso": Hostile("AmbiguousFormat", lambda: iso(gzip.compress(disk(), 0))),
    "tar that is a disk": Hostile(
        "AmbiguousFormat", lambda: spoiled(tar_of(("a.img", disk())), (446, with_mbr(disk())[446:512]))
    ),
    "iso that is a vhd": Hostile(
        "AmbiguousFormat", lambda: iso() + whole("vpc", "-o", "subformat=fixed,force_size=on")[-512:]
    ),
    # No image at all.
    "html page": Hostile("UnknownFormat", lambda: b"<!DOCTYPE html><html>Log in</html>"),
    "empty": Hostile("UnknownFormat", lambda: b""),
    "zeroes": Hostile("UnknownFormat", lambda: bytes(MIB)),
}


def _first_half(image: bytes) -> bytes:
    return image[: len(image) // 2]


def _vhdx_parent() -> bytes:
    """The file parameters are 8 bytes; bit 1 of their flags is "has parent"."""
    image = whole("vhdx")
    at = image.index(b"metadata")
    guid = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
    entry = image.index(guid, at)
    (offset,) = struct.unpack_from("<I", image, entry + 16)
    return spoiled(image, (at + offset + 4, le32(2)))
