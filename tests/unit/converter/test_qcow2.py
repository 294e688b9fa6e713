"""A qcow2 is read as qemu-img reads it, in the order of the file, and never twice."""

import random
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from converter.convert import convert
from converter.headers import QCOW2_CORRUPT
from converter.inspect import inspect
from converter.qcow2 import Qcow2Disk
from converter.qemu_img import QemuImg
from dvcr.errors import ImageError, SourceError
from tests.support.conversion import make_disk
from tests.support.images import MemoryChunkStore, MemorySource, WindowSource, build_image, qemu_img, reference

MIB = 2**20
NO_QEMU_IMG = QemuImg("qemu-img-is-not-needed")


def converted(source: MemorySource) -> bytes:
    store = MemoryChunkStore()
    info = inspect(source, max_virtual_size_bytes=2**41)
    seen: list[int] = []
    disk = convert(source, info, store, on_progress=seen.append, qemu_img=NO_QEMU_IMG)
    assert seen == sorted(seen)
    return store.disk(disk)


@pytest.mark.parametrize("options", [(), ("-c",), ("-c", "-o", "compression_type=zstd"), ("-o", "cluster_size=2M")])
def test_one_pass_over_the_file_keeps_only_a_window(options: tuple[str, ...], tmp_path: Path) -> None:
    disk = make_disk(40 * MIB)
    data = build_image(tmp_path, disk, "qcow2", *options)
    source = WindowSource(data, 8 * MIB)
    assert converted(source) == disk
    assert source.streaming


def test_a_stray_cluster_is_held_until_its_chunk_is_complete(tmp_path: Path) -> None:
    """The file begins with a cluster of its last chunk: all the rest passes through a window between the two."""
    data = written(tmp_path, [47, *range(46)], "cluster_size=64k")
    source = WindowSource(data, 6 * MIB)
    assert converted(source) == reference(tmp_path, data, "qcow2")
    assert source.streaming


def test_tables_that_were_read_ahead_must_be_those_of_the_file(tmp_path: Path) -> None:
    data = build_image(tmp_path, make_disk(12 * MIB), "qcow2")
    table, _, found = entries(data)

    class Deceiving(WindowSource):
        def read_ahead(self, offset_bytes: int, length_bytes: int) -> bytes | None:
            if offset_bytes != table:
                return super().read_ahead(offset_bytes, length_bytes)
            return struct.pack(">2Q", found[1], found[0]) + self.data[table + 16 : table + length_bytes]

    with pytest.raises(SourceError) as caught:
        converted(Deceiving(data, 8 * MIB))
    assert caught.value.reason == "SourceChanged"


def test_a_source_that_cannot_read_ahead_is_read_in_the_order_of_the_disk(tmp_path: Path) -> None:
    disk = make_disk(12 * MIB)
    source = WindowSource(build_image(tmp_path, disk, "qcow2"), 8 * MIB, ranges=False)
    assert converted(source) == disk
    assert not source.streaming


def written(folder: Path, order: list[int], options: str, step_bytes: int = MIB) -> bytes:
    """A qcow2 that was written to in that order, by so many bytes at a time, so that they lie so in the file."""
    file = folder / "written.qcow2"
    file.unlink(missing_ok=True)
    qemu_img("create", "-f", "qcow2", "-o", options, file, "48M")
    script: list[str] = []
    for number in order:
        script += ["-c", f"write -P {number + 1} {number * step_bytes} {step_bytes}"]
    subprocess.run(["qemu-io", "-f", "qcow2", *script, file], check=True, capture_output=True)
    return file.read_bytes()


def test_a_file_in_another_order_than_the_disk_is_kept_by_the_source(tmp_path: Path) -> None:
    order = list(range(192))
    random.Random(3).shuffle(order)
    data = written(tmp_path, order, "cluster_size=64k", MIB // 4)
    scattered = WindowSource(data, 8 * MIB)
    assert converted(scattered) == reference(tmp_path, data, "qcow2")
    assert not scattered.streaming
    backwards = WindowSource(written(tmp_path, list(range(47, -1, -1)), "cluster_size=64k"), 64 * MIB)
    assert converted(backwards) == reference(tmp_path, backwards.data, "qcow2")
    assert backwards.streaming


RUN = st.tuples(
    st.sampled_from(["write -P 7", "write -P 200", "write -c -P 9", "write -z", "write -z -u", "discard"]),
    st.integers(0, 191),
    st.integers(1, 32),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(RUN, max_size=12),
    st.sampled_from([12, 14, 16, 21]),
    st.sampled_from(["compat=0.10", "compat=1.1", "compat=1.1,compression_type=zstd", "compat=1.1,lazy_refcounts=on"]),
)
@example(runs=[("write -c -P 9", 32, 1), ("write -P 7", 32, 1), ("write -c -P 9", 0, 1)], bits=12, options="compat=1.1")
def test_whatever_was_written_is_read_as_qemu_img_reads_it(
    tmp_path: Path, runs: list[tuple[str, int, int]], bits: int, options: str
) -> None:
    file = tmp_path / "any.qcow2"
    file.unlink(missing_ok=True)
    qemu_img("create", "-f", "qcow2", "-o", f"{options},cluster_size={1 << bits}", file, str(12 * MIB + 1536))
    script: list[str] = []
    for command, at, length in runs:
        length = min(length, 192 - at)
        # Whole clusters where it is compressed.
        step = max(1 << bits, 65536) if "-c" in command else 65536
        first, size = at * 65536 // step * step, -(-length * 65536 // step) * step
        if "-c" in command:
            for place in range(first, min(first + size, 12 * MIB), 1 << bits):
                script += ["-c", f"{command} {place} {1 << bits}"]
        else:
            script += ["-c", f"{command} {first} {min(size, 12 * MIB - first)}"]
    if script:
        # It refuses to compress what is there already, and goes on.
        subprocess.run(["qemu-io", "-f", "qcow2", *script, file], check=False, capture_output=True)
    data = file.read_bytes()
    version, features = struct.unpack_from(">4xI64xQ", data)
    if version > 2 and features & QCOW2_CORRUPT:
        # qemu-io 7.2 overlaps its own tables where compressed clusters are written over, and says so in the image.
        assert refused(data)[0] == "CorruptImage"
        return
    expected = reference(tmp_path, data, "qcow2")
    assert converted(WindowSource(data, 2**40)) == expected
    assert converted(MemorySource(data)) == expected


def entries(data: bytes | bytearray) -> tuple[int, int, list[int]]:
    """Where the first table of the second level is, where the first level is, and the entries of the table in use."""
    (l1,) = struct.unpack_from(">Q", data, 40)
    table = struct.unpack_from(">Q", data, l1)[0] & 0x00FFFFFFFFFFFE00
    found = list(struct.unpack_from(">64Q", data, table))
    return table, l1, found


def refused(data: bytes) -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        converted(MemorySource(data))
    return caught.value.reason, caught.value.message


def test_tables_that_refer_to_the_same_bytes_again_and_again_are_refused(tmp_path: Path) -> None:
    data = bytearray(build_image(tmp_path, random.Random(1).randbytes(3 * MIB), "qcow2"))
    table, _, found = entries(data)
    data[table : table + 48 * 8] = struct.pack(">48Q", *[found[0]] * 48)
    assert converted(MemorySource(bytes(data)))[: 2 * 65536] == data[found[0] & 2**56 - 512 :][:65536] * 2
    qemu_img("create", "-f", "qcow2", tmp_path / "large.qcow2", "2G")
    large = bytearray((tmp_path / "large.qcow2").read_bytes().ljust(2 * MIB, b"\1"))
    (l1,) = struct.unpack_from(">Q", large, 40)
    large[l1 : l1 + 32] = struct.pack(">4Q", *[1 << 63 | 1 * MIB] * 4)
    assert refused(bytes(large))[0] == "CorruptImage"
    large[l1 : l1 + 32] = struct.pack(">4Q", 1 << 63 | 1 * MIB, 0, 0, 0)
    large[MIB : MIB + 65536] = struct.pack(">Q", 1 << 63 | 2**19) * 8192
    assert refused(bytes(large))[0] == "CorruptImage"


def test_compressed_clusters_that_are_one_are_refused(tmp_path: Path) -> None:
    data = bytearray(build_image(tmp_path, b"a" * 3 * MIB, "qcow2", "-c"))
    table, _, found = entries(data)
    data[table + 8 : table + 16] = struct.pack(">Q", found[0])
    assert refused(bytes(data)) == (
        "CorruptImage",
        "the qcow2 uses the same bytes for several places of the disk; export it again",
    )


def test_what_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """Two hundred clusters of 2 MiB in a file of 3 MiB."""
    qemu_img("create", "-f", "qcow2", "-o", "cluster_size=2M", tmp_path / "bomb.qcow2", "1G")
    data = bytearray((tmp_path / "bomb.qcow2").read_bytes().ljust(10 * MIB, b"\0"))
    (l1,) = struct.unpack_from(">Q", data, 40)
    data[l1 : l1 + 8] = struct.pack(">Q", 1 << 63 | 8 * MIB)
    data[8 * MIB : 8 * MIB + 200 * 8] = struct.pack(">200Q", *(1 << 62 | MIB + at * 4096 for at in range(200)))
    source = MemorySource(bytes(data))
    with pytest.raises(ImageError) as caught:
        Qcow2Disk(source, 2**30, 4 * MIB, 10).pieces(0)
    assert caught.value.reason == "DecompressionBomb"
    assert len(Qcow2Disk(source, 2**30, 4 * MIB, 20).pieces(0)) == 2


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (1 << 63 | 512, "CorruptImage"),  # not aligned
        (1 << 63 | 2**40, "TruncatedImage"),
        (1 << 62 | 2**40, "TruncatedImage"),
        (1 << 62, "CorruptImage"),  # the header is no compressed cluster
    ],
)
def test_entries_that_cannot_be_are_refused(entry: int, reason: str, tmp_path: Path) -> None:
    data = bytearray(build_image(tmp_path, make_disk(3 * MIB), "qcow2"))
    table, _, _ = entries(data)
    data[table : table + 8] = struct.pack(">Q", entry)
    assert refused(bytes(data))[0] == reason


def test_a_bit_of_version_3_in_version_2_is_refused(tmp_path: Path) -> None:
    data = bytearray(build_image(tmp_path, make_disk(3 * MIB), "qcow2", "-o", "compat=0.10"))
    table, _, found = entries(data)
    data[table : table + 8] = struct.pack(">Q", found[0] | 1)
    assert refused(bytes(data))[0] == "CorruptImage"


def test_variants_that_stay_with_qemu_img(tmp_path: Path) -> None:
    for options in ("extended_l2=on,cluster_size=128k", "cluster_size=512"):
        source = MemorySource(build_image(tmp_path, make_disk(MIB), "qcow2", "-o", options))
        assert Qcow2Disk(source, MIB, 4 * MIB, 1000).unusual
