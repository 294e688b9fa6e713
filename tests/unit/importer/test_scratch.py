"""Raw disks, ISOs, qcow2 and streamOptimized VMDKs pass through a window in memory, and no spool file."""

import random
import struct
import subprocess
from pathlib import Path

import pytest

from converter.convert import convert
from converter.inspect import ImageFormat, ImageInfo, inspect
from converter.qemu_img import QemuImg
from converter.raw import sink_size_bytes
from dvcr.artifact.chunk import encode_chunk
from dvcr.artifact.image import chunk_size_bytes
from dvcr.config import ImporterSettings
from dvcr.digest import Digest
from dvcr.errors import ImageError
from importer.unwrap import unwrapped
from tests.support.archives import tar_of
from tests.support.downloads import MemoryDownload, watched_source
from tests.support.images import MemoryChunkStore, MemorySource, qemu_img
from tests.support.vmdk import stream_optimized

MIB, GIB, TIB = 2**20, 2**30, 2**40
NO_QEMU_IMG = QemuImg("qemu-img-is-not-needed")
DENSE = random.Random(1).randbytes(40 * MIB)


def declaring(disk: bytes, size_bytes: int) -> bytes:
    """With a partition that would end where a disk of that size ends."""
    entry = struct.pack("<B3xB3xII", 0x80, 0x83, 2048, size_bytes // 512 - 2048)
    return disk[:446] + entry.ljust(64, b"\0") + b"\x55\xaa" + disk[512:]


@pytest.mark.parametrize(("size", "in_tar"), [(200 * GIB, True), (300 * GIB, False), (2 * TIB - MIB, False)])
def test_raw_with_chunks_of_any_size(size: int, in_tar: bool, tmp_path: Path) -> None:
    """Cut short, so that no test has to read so much: it is refused at the end, after whole chunks were stored."""
    disk = declaring(DENSE * 4 + DENSE[: 5 * MIB], size)
    data = tar_of(("disk.img", disk)) if in_tar else disk
    source, spool = watched_source(tmp_path, MemoryDownload(data))
    store = MemoryChunkStore()
    with unwrapped(source, ImporterSettings(scratch_dir=tmp_path)) as unpacked:
        info = inspect(unpacked, max_virtual_size_bytes=2 * TIB)
        # As for a compressed one, whose length is not known.
        info = ImageInfo(info.format, 0, cdrom=False, declared=info.declared)
        with pytest.raises(ImageError) as caught:
            convert(unpacked, info, store, on_progress=lambda _: None)
    source.close()
    assert caught.value.reason == "UnknownLength"
    assert spool.written_bytes == 0
    step = chunk_size_bytes(size)
    whole = {digest_of_chunk(disk[at : at + step]) for at in range(0, len(disk) - step + 1, step)}
    # Those that were on their way when the end came are dropped, whichever these are.
    assert store.blobs.keys() & whole
    assert not store.blobs.keys() - whole


def digest_of_chunk(content: bytes) -> Digest:
    encoded = encode_chunk(content)
    assert encoded is not None
    return encoded.descriptor.digest


@pytest.mark.parametrize(
    ("size", "options", "in_tar"),
    [
        (100 * GIB, "cluster_size=64k", True),
        (300 * GIB, "cluster_size=2M", False),
        (2 * TIB, "cluster_size=64k", False),
    ],
)
def test_qcow2_with_chunks_of_any_size(size: int, options: str, in_tar: bool, tmp_path: Path) -> None:
    """Two dense runs, the first of which is more than the window, and a bit of the second between its halves."""
    (tmp_path / "dense").write_bytes(DENSE)
    file = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", options, file, size)
    later = size // 2
    runs = [(0, 30 * MIB), (later, MIB), (30 * MIB, 10 * MIB), (later + MIB, 20 * MIB), (size - MIB, MIB)]
    script: list[str] = []
    for at, length in runs:
        script += ["-c", f"write -s {tmp_path / 'dense'} {at} {length}"]
    subprocess.run(["qemu-io", "-f", "qcow2", *script, file], check=True, capture_output=True)
    data = file.read_bytes()
    source, spool = watched_source(tmp_path, MemoryDownload(tar_of(("disk.img", data)) if in_tar else data))
    store = MemoryChunkStore()
    with unwrapped(source, ImporterSettings(scratch_dir=tmp_path)) as unpacked:
        info = inspect(unpacked, max_virtual_size_bytes=2 * TIB)
        disk = convert(unpacked, info, store, on_progress=lambda _: None, qemu_img=NO_QEMU_IMG)
        unpacked.finish()
    source.close()
    assert spool.written_bytes == 0
    step = disk.chunk_size_bytes
    used = {offset // step for at, length in runs for offset in range(at, at + length, MIB)}
    assert [chunk.index for chunk in disk.chunks] == sorted(used)
    for chunk in disk.chunks:
        start = chunk.index * step
        expected = bytearray(min(step, size - start))
        for at, length in runs:
            first, end = max(at, start), min(at + length, start + step)
            if first < end:
                expected[first - start : end - start] = DENSE[first - at : end - at]
        encoded = encode_chunk(expected)
        assert encoded is not None
        assert encoded.descriptor == chunk.descriptor


def test_the_end_of_a_disk_just_over_a_boundary_is_asked_for_by_itself() -> None:
    """A VHD of 64 GiB has a sector more than a disk with chunks of 4 MiB: only that sector tells."""

    class Large(MemorySource):
        window_bytes = 16 * MIB

        def read_ahead(self, offset_bytes: int, length_bytes: int) -> bytes | None:
            assert (offset_bytes, length_bytes) == (64 * GIB, 512)
            return footer

        def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
            raise AssertionError("waits for the end of the source")

    footer = vhd_footer(64 * GIB)
    info = ImageInfo(ImageFormat.RAW, 64 * GIB + 512, cdrom=False)
    assert sink_size_bytes(Large(b""), info, 2 * TIB) == 64 * GIB
    footer = bytes(512)
    assert sink_size_bytes(Large(b""), info, 2 * TIB) == 64 * GIB + 512


def vhd_footer(size_bytes: int) -> bytes:
    footer = bytearray(512)
    footer[:8] = b"conectix"
    footer[28:32] = b"win "
    footer[48:56] = struct.pack(">Q", size_bytes)
    footer[60:64] = struct.pack(">I", 2)
    footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
    return bytes(footer)


@pytest.mark.parametrize("footer", [False, True])
def test_an_appliance_with_a_stream_optimized_vmdk(footer: bool, tmp_path: Path) -> None:
    """As VMware exports it, the tables are at the end, and asked for first."""
    expected = DENSE + bytes(30 * MIB) + DENSE[: 5 * MIB]
    data = tar_of(("a.ovf", b"<Envelope/>"), ("a-disk1.vmdk", stream_optimized(expected, footer=footer)))
    source, spool = watched_source(tmp_path, MemoryDownload(data))
    store = MemoryChunkStore()
    with unwrapped(source, ImporterSettings(scratch_dir=tmp_path)) as unpacked:
        info = inspect(unpacked, max_virtual_size_bytes=2 * TIB)
        disk = convert(unpacked, info, store, on_progress=lambda _: None, qemu_img=NO_QEMU_IMG)
        unpacked.finish()
    source.close()
    assert spool.written_bytes == 0
    assert store.disk(disk) == expected
