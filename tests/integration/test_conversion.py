"""Images built by qemu-img, converted: every byte as qemu-img itself would give it, and every fault with its reason."""

import random
import struct
import time
from pathlib import Path

import pytest

from converter.convert import convert
from converter.inspect import inspect
from dvcr.descriptor import Descriptor
from dvcr.errors import ImageError
from tests.support.conversion import LIMIT, children, inspected, make_disk
from tests.support.images import MemoryChunkStore, MemorySource, build_image, qemu_img, reference
from tests.support.peak_memory import peak_memory

MIB = 2**20
# On a machine that others use, too; what takes longer is no conversion of a few megabytes.
HANG_S = 60
FORMATS = [
    ("raw",),
    ("qcow2",),
    ("qcow2", "-o", "compat=0.10"),
    ("qcow2", "-c"),
    ("qcow2", "-c", "-o", "compression_type=zstd"),
    ("qcow2", "-o", "extended_l2=on,cluster_size=128k"),
    ("qcow2", "-o", "cluster_size=512"),
    ("qcow2", "-o", "preallocation=metadata"),
    ("vmdk",),
    ("vmdk", "-o", "subformat=streamOptimized"),
    ("vdi",),
    ("vdi", "-o", "static=on"),
    ("vpc",),
    ("vpc", "-o", "force_size=on"),
    ("vpc", "-o", "subformat=fixed"),
    ("vhdx",),
    ("vhdx", "-o", "subformat=fixed"),
]


def converted(data: bytes) -> bytes:
    store = MemoryChunkStore()
    seen: list[int] = []
    info = inspected(data)
    disk = convert(MemorySource(data), info, store, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == disk.virtual_size_bytes
    return store.disk(disk)


def reason_of(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        converted(data)
    assert caught.value.message
    assert not children()
    return caught.value.reason


@pytest.mark.parametrize("image_format", FORMATS, ids=" ".join)
@pytest.mark.parametrize("size", [512, 13 * MIB + 512 * 3])
def test_same_bytes_as_qemu_img(image_format: tuple[str, ...], size: int, tmp_path: Path) -> None:
    data = build_image(tmp_path, make_disk(size), *image_format)
    assert converted(data) == reference(tmp_path, data, image_format[0])


@pytest.mark.parametrize("size", [513, 1000, 4 * MIB, 4 * MIB + 1, 9 * MIB - 1])
def test_raw_of_any_length(size: int, tmp_path: Path) -> None:
    data = make_disk(size)
    assert converted(data) == reference(tmp_path, data, "raw")


def test_a_large_qcow2_is_copied_while_it_arrives(tmp_path: Path) -> None:
    """Its tables are spread over the file; the chunks of its first part come before the end of the file does."""
    size, noise = 1200 * MIB, random.Random(2).randbytes(5 * MIB + 512)
    with (tmp_path / "disk.raw").open("wb") as raw:
        raw.truncate(size)
        for at in range(0, size - len(noise), 45 * MIB):
            raw.seek(at)
            raw.write(noise)
    image = tmp_path / "disk.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", "preallocation=metadata", tmp_path / "disk.raw", image)
    store = MemoryChunkStore()

    class Arriving(MemorySource):
        @property
        def total_bytes(self) -> int:
            return image.stat().st_size

        def size_bytes(self) -> int:
            return image.stat().st_size

        def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
            if offset_bytes > 1000 * MIB:
                deadline = time.monotonic() + 30
                while not store.puts:
                    assert time.monotonic() < deadline, "the last part was asked for before the first was stored"
                    time.sleep(0.01)
            with image.open("rb") as file:
                file.seek(offset_bytes)
                return file.read(length_bytes)

    source = Arriving(b"")
    info = inspect(source, max_virtual_size_bytes=LIMIT)
    disk = convert(source, info, store, on_progress=lambda _: None)
    result = store.disk(disk)
    with (tmp_path / "disk.raw").open("rb") as disk_file:
        assert all(disk_file.read(64 * MIB) == result[at : at + 64 * MIB] for at in range(0, size, 64 * MIB))


def test_iso_is_copied(tmp_path: Path) -> None:
    data = bytearray(make_disk(6 * MIB))
    data[32768:32774] = b"\x01CD001"
    assert inspected(bytes(data)).cdrom
    assert converted(bytes(data)) == bytes(data)


def test_an_empty_disk_has_no_chunks(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "empty.qcow2", "300G")
    store = MemoryChunkStore()
    data = (tmp_path / "empty.qcow2").read_bytes()
    disk = convert(MemorySource(data), inspected(data), store, on_progress=lambda _: None)
    assert disk.virtual_size_bytes == 300 * 2**30
    assert disk.chunks == ()
    assert store.puts == 0


def test_raw_is_read_once_and_released() -> None:
    source = MemorySource(make_disk(20 * MIB))
    info = inspect(source, max_virtual_size_bytes=LIMIT)
    before = source.read_bytes
    convert(source, info, MemoryChunkStore(), on_progress=lambda _: None)
    assert source.read_bytes - before == 20 * MIB
    assert source.released == 20 * MIB


@pytest.mark.parametrize("backing", ["base.raw", "json:{}", "nbd://127.0.0.1/x", "/etc/passwd"])
def test_backing_files_are_refused(backing: str, tmp_path: Path) -> None:
    file = tmp_path / "overlay.qcow2"
    qemu_img("create", "-f", "qcow2", file, "4M")
    data = bytearray(file.read_bytes())
    # Written by hand: qemu-img would try to open some of them.
    name = backing.encode()
    data[0x300 : 0x300 + len(name)] = name
    data[8:20] = struct.pack(">QI", 0x300, len(name))
    assert reason_of(bytes(data)) == "BackingFileRefused"


def test_a_real_overlay_is_refused(tmp_path: Path) -> None:
    qemu_img("create", "-f", "raw", tmp_path / "base.raw", "4M")
    for image_format in ("qcow2", "vmdk"):
        base = tmp_path / f"base.{image_format}"
        qemu_img("create", "-f", image_format, base, "4M")
        overlay = tmp_path / f"overlay.{image_format}"
        qemu_img("create", "-f", image_format, "-b", base, "-F", image_format, overlay)
        assert reason_of(overlay.read_bytes()) == "BackingFileRefused"


def test_external_data_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", file, "4M")
    assert reason_of(file.read_bytes()) == "ExternalDataFileRefused"


@pytest.mark.parametrize("method", [1, 2], ids=["aes", "luks"])
def test_encrypted_images_are_refused(method: int, tmp_path: Path) -> None:
    data = bytearray(build_image(tmp_path, make_disk(MIB), "qcow2"))
    data[32:36] = struct.pack(">I", method)
    assert reason_of(bytes(data)) == "EncryptedImageRefused"


@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_vmdks_of_several_files_are_refused(subformat: str, tmp_path: Path) -> None:
    file = tmp_path / "x.vmdk"
    qemu_img("create", "-f", "vmdk", "-o", f"subformat={subformat}", file, "4M")
    assert reason_of(file.read_bytes()) == "MultiExtentRefused"


def test_a_vmdk_that_points_to_other_files_is_refused(tmp_path: Path) -> None:
    data = bytearray(build_image(tmp_path, make_disk(MIB), "vmdk"))
    at = data.index(b"RW ")
    end = data.index(b"\n", at)
    line = b'RW 1 FLAT "/etc/passwd" 0\nRW 1 FLAT "/etc/group" 0'
    data[at : at + len(line)] = line
    assert reason_of(bytes(data)) == "MultiExtentRefused"
    empty = bytearray(build_image(tmp_path, make_disk(MIB), "vmdk"))
    empty[12:20] = bytes(8)
    assert reason_of(bytes(empty)) == "MultiExtentRefused"
    assert end


def test_a_disk_over_the_limit_is_refused(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "x.qcow2", "3T")
    data = (tmp_path / "x.qcow2").read_bytes()
    with pytest.raises(ImageError) as caught:
        inspect(MemorySource(data), max_virtual_size_bytes=2**41)
    assert caught.value.reason == "VirtualSizeTooLarge"


# The end of a fixed VHD is all that tells it from a raw disk.
CUTTABLE = [f for f in FORMATS if f[0] != "raw" and f != ("vpc", "-o", "subformat=fixed")]
ENDS_WITH_PADDING = [("vpc", "-o", "force_size=on"), ("vhdx",), ("vhdx", "-o", "subformat=fixed")]


@pytest.mark.parametrize("image_format", CUTTABLE, ids=" ".join)
@pytest.mark.parametrize("share", [0.0001, 0.5, 0.9])
def test_truncated_images_are_refused(image_format: tuple[str, ...], share: float, tmp_path: Path) -> None:
    disk = bytearray(random.Random(5).randbytes(9 * MIB))
    disk[510:512] = b"\x55\xaa"
    data = build_image(tmp_path, bytes(disk), *image_format)
    cut = data[: int(len(data) * share)]
    if share == 0.9 and image_format in ENDS_WITH_PADDING:
        assert converted(cut) == bytes(disk)
    else:
        assert reason_of(cut) == "TruncatedImage"


@pytest.mark.parametrize(
    "image_format",
    [
        ("qcow2",),
        ("qcow2", "-c"),
        ("vmdk",),
        ("vmdk", "-o", "subformat=streamOptimized"),
        ("vdi",),
        ("vpc",),
        ("vhdx",),
    ],
    ids=" ".join,
)
def test_damaged_images_end_in_an_image_error_or_a_disk(image_format: tuple[str, ...], tmp_path: Path) -> None:
    """Soon, and in little memory; an empty store takes what a disk that grew large would."""
    data = build_image(tmp_path, make_disk(3 * MIB), *image_format)
    rng = random.Random(7)
    for _ in range(8):
        damaged = bytearray(data)
        for _ in range(20):
            damaged[rng.randrange(min(len(data), 400_000))] = rng.randrange(256)
        began = time.monotonic()
        with peak_memory() as peak:
            try:
                convert(MemorySource(bytes(damaged)), inspected(bytes(damaged)), Nowhere(), on_progress=lambda _: None)
            except ImageError as exc:
                assert exc.reason != "InvalidImage"  # noqa: PT017  # either outcome is right
        assert time.monotonic() - began < HANG_S
        assert peak.grown < 200 * MIB
    assert not children()


class Nowhere:
    """A ChunkStore that keeps nothing."""

    def put(self, descriptor: Descriptor, data: bytes) -> None:
        pass


def with_footer(data: bytes) -> bytes:
    """A streamOptimized VMDK as VMware writes it: the place of its grain directory is in a footer only."""
    padded = data + bytes(-len(data) % 512)
    header = bytearray(padded[:512])
    footer = bytes(header)
    header[56:64] = b"\xff" * 8
    marker = struct.pack("<QII", 1, 0, 3) + bytes(496)
    return bytes(header) + padded[512:] + marker + footer + bytes(512)


def test_a_vmdk_with_a_footer(tmp_path: Path) -> None:
    data = with_footer(build_image(tmp_path, make_disk(9 * MIB), "vmdk", "-o", "subformat=streamOptimized"))
    assert converted(data) == reference(tmp_path, data, "vmdk")
    assert reason_of(data[:-1024]) == "TruncatedImage"
    assert reason_of(data[:-1000]) == "TruncatedImage"
    forged = bytearray(data)
    forged[-1024 + 12 : -1024 + 20] = struct.pack("<Q", 2**30)
    assert reason_of(bytes(forged)) == "CorruptImage"


def test_a_differencing_vhd_and_vdi_are_refused(tmp_path: Path) -> None:
    vhd = bytearray(build_image(tmp_path, make_disk(MIB), "vpc"))
    vhd[60:64] = struct.pack(">I", 4)
    vhd[64:68] = struct.pack(">I", ~sum(vhd[:64] + vhd[68:512]) & 0xFFFFFFFF)
    assert reason_of(bytes(vhd)) == "BackingFileRefused"
    vdi = bytearray(build_image(tmp_path, make_disk(MIB), "vdi"))
    vdi[0x4C:0x50] = struct.pack("<I", 4)
    assert reason_of(bytes(vdi)) == "BackingFileRefused"


def test_a_vhdx_that_was_not_closed_is_refused(tmp_path: Path) -> None:
    data = bytearray(build_image(tmp_path, make_disk(MIB), "vhdx"))
    for at in (64 * 1024, 128 * 1024):
        data[at + 48 : at + 64] = b"\x01" * 16
    assert reason_of(bytes(data)) == "CorruptImage"


def test_corrupt_and_unknown_features_of_qcow2_are_refused(tmp_path: Path) -> None:
    data = bytearray(build_image(tmp_path, make_disk(MIB), "qcow2"))
    for features in (2, 1 << 20, 1 << 63):
        data[72:80] = struct.pack(">Q", features)
        assert reason_of(bytes(data)) == "CorruptImage"
