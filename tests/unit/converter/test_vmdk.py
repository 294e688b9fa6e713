"""A streamOptimized VMDK is read as qemu-img reads it, in the order of the file, and never twice."""

import random
import struct
import zlib
from pathlib import Path

import pytest

from converter.convert import convert
from converter.inspect import inspect
from converter.qemu_img import QemuImg
from dvcr.errors import ImageError, SourceError
from tests.support.conversion import make_disk
from tests.support.images import MemoryChunkStore, MemorySource, WindowSource, build_image, reference
from tests.support.vmdk import GRAIN_BYTES, grain, stream_optimized

MIB = 2**20
NO_QEMU_IMG = QemuImg("qemu-img-is-not-needed")
SECTORS = GRAIN_BYTES // 512


def converted(source: MemorySource, max_unpacking_ratio: int = 1000) -> bytes:
    store = MemoryChunkStore()
    info = inspect(source, max_virtual_size_bytes=2**41)
    seen: list[int] = []
    disk = convert(
        source,
        info,
        store,
        on_progress=seen.append,
        qemu_img=NO_QEMU_IMG,
        max_unpacking_ratio=max_unpacking_ratio,
    )
    assert seen == sorted(seen)
    return store.disk(disk)


def refused(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        converted(MemorySource(data))
    return caught.value.reason


@pytest.mark.parametrize("size", [512, 70 * MIB, 40 * MIB + 512 * 3])
def test_one_pass_over_what_qemu_img_writes(size: int, tmp_path: Path) -> None:
    disk = make_disk(size)
    source = WindowSource(build_image(tmp_path, disk, "vmdk", "-o", "subformat=streamOptimized"), 8 * MIB)
    assert converted(source) == disk
    assert source.streaming or not any(disk)


@pytest.mark.parametrize("footer", [False, True])
def test_what_vmware_writes(footer: bool, tmp_path: Path) -> None:
    disk = make_disk(40 * MIB + 512 * 5)
    data = stream_optimized(disk, footer=footer)
    assert reference(tmp_path, data, "vmdk") == disk
    assert converted(MemorySource(data)) == disk
    source = WindowSource(data, 8 * MIB)
    assert converted(source) == disk
    assert source.streaming
    source = WindowSource(data, 8 * MIB, ranges=False)
    assert converted(source) == disk
    assert not source.streaming


def test_a_footer_that_was_read_ahead_must_be_that_of_the_file() -> None:
    data = stream_optimized(make_disk(40 * MIB), footer=True)
    other = data[:-900] + b"?" + data[-899:]

    class Deceiving(WindowSource):
        def read_ahead(self, offset_bytes: int, length_bytes: int) -> bytes | None:
            return other[offset_bytes : offset_bytes + length_bytes]

    for window in (8 * MIB, MIB):  # in one pass, and where the window is too small for that
        with pytest.raises(SourceError) as caught:
            converted(Deceiving(data, window))
        assert caught.value.reason == "SourceChanged"


def test_grains_in_any_order(tmp_path: Path) -> None:
    disk = make_disk(40 * MIB)
    order = list(range(40 * 16))
    random.Random(3).shuffle(order)
    data = stream_optimized(disk, order=order)
    assert reference(tmp_path, data, "vmdk") == disk
    scattered = WindowSource(data, 8 * MIB)
    assert converted(scattered) == disk
    assert not scattered.streaming
    backwards = WindowSource(stream_optimized(disk, order=range(40 * 16 - 1, -1, -1)), 40 * MIB)
    assert converted(backwards) == disk
    assert backwards.streaming


def test_tables_that_were_read_ahead_must_be_those_of_the_file() -> None:
    data = stream_optimized(make_disk(40 * MIB))

    class Deceiving(WindowSource):
        def read_ahead(self, offset_bytes: int, length_bytes: int) -> bytes | None:
            found = super().read_ahead(offset_bytes, length_bytes)
            return None if found is None else bytes(4) + found[4:]

    with pytest.raises(SourceError) as caught:
        converted(Deceiving(data, 8 * MIB))
    assert caught.value.reason == "SourceChanged"


DISK = random.Random(2).randbytes(16 * GRAIN_BYTES)


@pytest.mark.parametrize(
    "wrong",
    [
        grain(DISK[:GRAIN_BYTES], 4 * SECTORS),  # of another place
        grain(DISK[:GRAIN_BYTES], 3 * SECTORS, length=2 * GRAIN_BYTES),  # reaches into another
        grain(DISK[:GRAIN_BYTES], 3 * SECTORS, length=0),
        grain(DISK[: GRAIN_BYTES - 1], 3 * SECTORS),  # too short
        grain(DISK[:GRAIN_BYTES] * 2, 3 * SECTORS),  # too long
        grain(bytes(100 * MIB), 3 * SECTORS),  # a bomb
        struct.pack("<QI", 3 * SECTORS, 100) + b"no deflate".ljust(100),
        struct.pack("<QI", 3 * SECTORS, 8) + zlib.compress(DISK[:GRAIN_BYTES])[:8],  # ends early
    ],
    ids=["place", "overlap", "nothing", "short", "long", "bomb", "garbage", "cut"],
)
def test_a_grain_that_cannot_be_is_refused(wrong: bytes) -> None:
    assert converted(MemorySource(stream_optimized(DISK))) == DISK
    assert refused(stream_optimized(DISK, grains={3: wrong})) == "CorruptImage"


def test_a_grain_that_is_used_twice_is_refused(tmp_path: Path) -> None:
    data = stream_optimized(DISK, places={3: 2})
    assert reference(tmp_path, data, "vmdk")[3 * GRAIN_BYTES : 4 * GRAIN_BYTES] == DISK[2 * GRAIN_BYTES :][:GRAIN_BYTES]
    assert refused(data) == "CorruptImage"
    # From another table: the grain tells where it belongs.
    large = DISK + bytes(32 * MIB)
    assert refused(stream_optimized(large, places={512: 2})) == "CorruptImage"


def test_what_is_cut_off_is_refused() -> None:
    disk = random.Random(1).randbytes(MIB)
    data = stream_optimized(disk)
    for end in (len(data) - 30_000, len(data) - 70_000, 100_000):
        assert refused(data[:end]) == "TruncatedImage"
    assert refused(stream_optimized(disk, footer=True)[:-512]) == "TruncatedImage"


def test_a_header_that_contradicts_itself_is_refused() -> None:
    data = stream_optimized(DISK)
    for at, other in ((77, b"\0\0"), (8, struct.pack("<I", 1 << 16)), (8, struct.pack("<I", 0))):
        assert refused(data[:at] + other + data[at + len(other) :]) == "CorruptImage"


def test_the_ratio_is_limited() -> None:
    disk = bytes(range(1, 256)) * (300 * MIB // 255)
    data = stream_optimized(disk[: 300 * MIB // GRAIN_BYTES * GRAIN_BYTES - GRAIN_BYTES])
    with pytest.raises(ImageError) as caught:
        converted(MemorySource(data), max_unpacking_ratio=2)
    assert caught.value.reason == "DecompressionBomb"
