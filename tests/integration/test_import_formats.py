"""Every format in every wrapper through the real import: byte for byte what `qemu-img convert` gives."""

import bz2
import gzip
import lzma
import random
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from dvcr.artifact.chunk import decode_chunk
from dvcr.artifact.image import DiskImage
from dvcr.config import ImporterSettings
from dvcr.errors import DvcrError, ImageError, NoSpaceError, SourceError
from importer.pipeline import ImportWatch, import_disk
from importer.spool import Spool
from importer.unpacked import WINDOW_BYTES, UnpackedSource
from tests.support.archives import tar_of
from tests.support.images import build_image, reference
from tests.support.import_source import MemoryImportSource
from tests.support.memory_registry import MemoryRegistry

MIB = 2**20
Pack = Callable[[bytes], bytes]


def ova_of(data: bytes) -> bytes:
    return tar_of(("a.ovf", b"<Envelope/>"), ("a-disk1.vmdk", data), ("a.mf", b"SHA256(a.ovf)= 0"))


FORMATS = {
    "raw": ("raw",),
    "qcow2-v2": ("qcow2", "-o", "compat=0.10"),
    "qcow2-v3": ("qcow2",),
    "qcow2-zlib": ("qcow2", "-c"),
    "qcow2-zstd": ("qcow2", "-c", "-o", "compression_type=zstd"),
    "qcow2-extended-l2": ("qcow2", "-o", "extended_l2=on"),
    "vmdk-sparse": ("vmdk",),
    "vmdk-stream": ("vmdk", "-o", "subformat=streamOptimized"),
    "vdi": ("vdi",),
    "vhd-fixed": ("vpc", "-o", "subformat=fixed"),
    "vhd-dynamic": ("vpc",),
    "vhdx": ("vhdx",),
    "iso": ("raw",),
}
WRAPPERS: dict[str, Pack] = {
    "plain": lambda data: data,
    "gz": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": zstandard.ZstdCompressor(level=1).compress,
    "bz2": lambda data: bz2.compress(data, 1),
    "ova": ova_of,
    "tar.gz": lambda data: gzip.compress(ova_of(data), 1),
}
STORED_FORMATS = {"vhd-fixed": "vpc", "vhd-dynamic": "vpc", "iso": "iso"}


@pytest.fixture(scope="module")
def disk() -> bytes:
    """Small, with data, zeroes and an end that is no whole number of chunks."""
    rng = random.Random(3)
    out = bytearray(5 * MIB + 512 * 3)
    out[510:512] = b"\x55\xaa"
    for at in (0x1000, MIB - 700, 4 * MIB - 100, len(out) - 900):
        out[at : at + 800] = rng.randbytes(800)
    return bytes(out)


@pytest.fixture(scope="module")
def images(disk: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """Each format: the image, and the disk that qemu-img makes of it."""
    folder = tmp_path_factory.mktemp("images")
    found = {}
    for name, options in FORMATS.items():
        raw = disk
        if name == "iso":
            raw = disk[:32768] + b"\x01CD001\x01" + disk[32775:]
        data = build_image(folder, raw, *options)
        found[name] = data, reference(folder, data, options[0])
    return found


@pytest.fixture
def settings(tmp_path: Path) -> ImporterSettings:
    return ImporterSettings(scratch_dir=tmp_path / "scratch")


def imported(
    source: MemoryImportSource, settings: ImporterSettings, registry: MemoryRegistry | None = None
) -> tuple[DiskImage, bytes]:
    """Import into an empty registry, and read the disk back."""
    registry = registry or MemoryRegistry()
    image = import_disk(
        source,
        registry.client().repository("cvmi/a"),
        ["latest"],
        origin="test",
        checksums={},
        settings=settings,
        watch=ImportWatch(),
    )
    out = bytearray(image.virtual_size_bytes)
    for chunk in image.chunks:
        at = chunk.index * image.chunk_size_bytes
        length = image.chunk_length(chunk.index)
        blob = registry.blobs["cvmi/a"][str(chunk.descriptor.digest)]
        out[at : at + length] = decode_chunk(chunk.descriptor, blob, length)
    assert registry.tags["cvmi/a"].keys() == {"latest"}
    return image, bytes(out)


def refusal(source: MemoryImportSource, settings: ImporterSettings) -> DvcrError:
    registry = MemoryRegistry()
    with pytest.raises(DvcrError) as caught:
        imported(source, settings, registry)
    assert not registry.tags.get("cvmi/a")
    assert not [thread for thread in threading.enumerate() if thread.name == "unpack"]
    return caught.value


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("image_format", FORMATS)
def test_same_bytes_as_qemu_img(
    image_format: str, wrapper: str, images: dict[str, tuple[bytes, bytes]], settings: ImporterSettings
) -> None:
    data, expected = images[image_format]
    packed = WRAPPERS[wrapper](data)
    image, disk = imported(MemoryImportSource(packed), settings)
    assert disk == expected
    assert image.source.format == STORED_FORMATS.get(image_format, FORMATS[image_format][0])
    assert image.source.size_bytes == len(packed)
    assert image.cdrom == (image_format == "iso")


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_source_that_does_not_tell_its_length(
    image_format: str, images: dict[str, tuple[bytes, bytes]], settings: ImporterSettings
) -> None:
    data, expected = images[image_format]
    assert imported(MemoryImportSource(data, announced=False), settings)[1] == expected


@pytest.mark.parametrize("tool", ["gzip", "xz", "bzip2"])
@pytest.mark.parametrize("image_format", ["raw", "qcow2-v3"])
def test_what_the_tools_themselves_pack_in_several_pieces(
    tool: str, image_format: str, images: dict[str, tuple[bytes, bytes]], settings: ImporterSettings
) -> None:
    data, expected = images[image_format]
    parts = data[:70_000], b"", data[70_000:]
    packed = b"".join(
        subprocess.run([tool, "-c"], input=part, capture_output=True, check=True).stdout for part in parts
    )
    assert imported(MemoryImportSource(packed), settings)[1] == expected


def test_zstd_frames_with_skippable_ones_between(
    images: dict[str, tuple[bytes, bytes]], settings: ImporterSettings
) -> None:
    data, expected = images["raw"]
    skippable = b"\x53\x2a\x4d\x18\x05\0\0\0hello"
    compress = zstandard.ZstdCompressor().compress
    packed = skippable + compress(data[:1000]) + skippable + compress(data[1000:]) + skippable
    assert imported(MemoryImportSource(packed), settings)[1] == expected


def test_xz_of_several_blocks_with_padding_between_its_streams(
    images: dict[str, tuple[bytes, bytes]], settings: ImporterSettings
) -> None:
    data, expected = images["raw"]
    blocks = subprocess.run(
        ["xz", "-c", "-0", "--block-size=1MiB", "-T2"], input=data[:-512], capture_output=True, check=True
    ).stdout
    packed = blocks + bytes(8) + lzma.compress(data[-512:]) + bytes(4)
    assert imported(MemoryImportSource(packed), settings)[1] == expected


def test_zeroes_may_follow_a_gzip_file(images: dict[str, tuple[bytes, bytes]], settings: ImporterSettings) -> None:
    data, expected = images["raw"]
    assert imported(MemoryImportSource(gzip.compress(data) + bytes(700)), settings)[1] == expected


@pytest.mark.parametrize("wrapper", ["gz", "xz", "zst", "bz2"])
@pytest.mark.parametrize("image_format", ["raw", "qcow2-v3"])
def test_what_is_wrong_with_a_wrapper_is_found_behind_a_good_image(
    image_format: str, wrapper: str, images: dict[str, tuple[bytes, bytes]], settings: ImporterSettings
) -> None:
    packed = WRAPPERS[wrapper](images[image_format][0])
    for spoiled, reason in (
        (packed + b"garbage", "CorruptImage"),
        (packed + packed[:10], "TruncatedImage"),
        (packed[:-1], "TruncatedImage"),
        (packed[: len(packed) // 2], "TruncatedImage"),
    ):
        assert refusal(MemoryImportSource(spoiled), settings).reason == reason


def test_raw_needs_no_scratch_and_others_leave_none(settings: ImporterSettings) -> None:
    head = bytearray(512)
    head[510:512] = b"\x55\xaa"
    noise = random.Random(5).randbytes(MIB)
    raw = bytes(head) + noise * (3 * WINDOW_BYTES // MIB)
    source = MemoryImportSource(gzip.compress(raw, 0))
    image, disk = imported(source, settings)
    assert disk == raw
    assert image.source.format == "raw"
    assert source.released == len(source.data)
    assert not settings.scratch_dir.exists()


def test_a_qcow2_is_read_while_it_is_unpacked(tmp_path: Path) -> None:
    data = random.Random(6).randbytes(3 * WINDOW_BYTES)
    gate = threading.Event()

    class Arriving(MemoryImportSource):
        def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
            if offset_bytes > 2 * WINDOW_BYTES:
                assert gate.wait(30)
            return super().read_at(offset_bytes, length_bytes)

    with unpacking(Arriving(gzip.compress(data, 0)), tmp_path) as unpacked:
        start = WINDOW_BYTES + 5 * MIB
        assert unpacked.read_at(start, 1000) == data[start : start + 1000]
        assert unpacked.read_at(10, 1000) == data[10:1010]
        assert unpacked.total_bytes is None
        assert unpacked.spooled_bytes > 0
        gate.set()
        assert unpacked.size_bytes() == len(data)
        assert unpacked.read_at(len(data) - 7, 100) == data[-7:]
        assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_unpacking_goes_no_further_than_its_window(tmp_path: Path) -> None:
    with unpacking(MemoryImportSource(gzip.compress(bytes(512 * MIB), 1)), tmp_path) as unpacked:
        assert unpacked.read_at(WINDOW_BYTES - 10, 10) == bytes(10)
        assert unpacked.read_at(300 * MIB, 10) == bytes(10)
        assert unpacked.spooled_bytes == 0, "zeroes take no room"
        unpacked.release(100)
        with pytest.raises(ValueError, match="released"):
            unpacked.read_at(99, 1)


def test_a_full_scratch_folder_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spool, "free_bytes", lambda self: 200 * MIB)
    with (
        unpacking(
            MemoryImportSource(gzip.compress(random.Random(1).randbytes(2 * WINDOW_BYTES), 0)), tmp_path
        ) as source,
        pytest.raises(NoSpaceError, match="scratch_dir"),
    ):
        source.size_bytes()


def test_closing_stops_a_thread_that_waits_for_the_source(tmp_path: Path) -> None:
    class Stalled(MemoryImportSource):
        def __init__(self, data: bytes) -> None:
            super().__init__(data)
            self.stopped = threading.Event()

        def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
            if offset_bytes:
                assert self.stopped.wait(30)
                raise SourceError("stopped")
            return super().read_at(0, 1000)

        def abort(self) -> None:
            self.stopped.set()

    with unpacking(Stalled(gzip.compress(bytes(MIB), 0)), tmp_path) as unpacked:
        assert unpacked.read_at(0, 100) == bytes(100)
    with pytest.raises(SourceError):
        unpacked.read_at(10_000, 1)


@contextmanager
def unpacking(source: MemoryImportSource, folder: Path) -> Iterator[UnpackedSource]:
    from converter.wrappers import UnpackingLimits, Wrapper

    unpacked = UnpackedSource(source, Wrapper.GZIP, UnpackingLimits(2**40, 10_000), folder)
    try:
        yield unpacked
    finally:
        unpacked.close()


@pytest.mark.parametrize("archive_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_each_kind(
    archive_format: int, images: dict[str, tuple[bytes, bytes]], settings: ImporterSettings
) -> None:
    data, expected = images["vmdk-stream"]
    name = "ü" * 40 + "/" + "n" * 60 + ".vmdk" if archive_format == tarfile.PAX_FORMAT else "d" * 90 + ".vmdk"
    packed = tar_of(("a.ovf", b"x"), (name, data), archive_format=archive_format)
    assert imported(MemoryImportSource(packed), settings)[1] == expected


def test_an_archive_that_holds_no_single_disk(
    images: dict[str, tuple[bytes, bytes]], settings: ImporterSettings
) -> None:
    data, _ = images["raw"]
    for packed, reason in (
        (tar_of(("a.ovf", b"x"), ("a.mf", b"y")), "UnknownFormat"),
        (tar_of(("a.img", data), ("b.img", data)), "MultipleDisksRefused"),
        (tar_of(("a.img.gz", gzip.compress(data))), "NestedCompressionRefused"),
        (tar_of(("a.tar", tar_of(("a.img", data)))), "NestedCompressionRefused"),
        (tar_of(("a.img", data))[:MIB], "TruncatedImage"),
    ):
        assert refusal(MemoryImportSource(packed), settings).reason == reason


def test_a_vhd_that_lost_its_footer_is_the_raw_disk_that_it_is(
    images: dict[str, tuple[bytes, bytes]], settings: ImporterSettings
) -> None:
    data, expected = images["vhd-fixed"]
    image, disk = imported(MemoryImportSource(data[:-512]), settings)
    assert (image.source.format, disk) == ("raw", expected)


def test_a_raw_disk_that_is_cut_off_its_own_partition_table(
    disk: bytes, settings: ImporterSettings, tmp_path: Path
) -> None:
    from tests.support.partitions import with_gpt, with_mbr

    for whole in (with_gpt(disk), with_mbr(disk)):
        assert imported(MemoryImportSource(whole), settings)[1] == whole
        for source in (MemoryImportSource(whole[: len(whole) // 2]), MemoryImportSource(gzip.compress(whole[:MIB]))):
            assert refusal(source, settings).reason == "TruncatedImage"


def test_a_disk_of_unknown_length_over_the_limit(settings: ImporterSettings) -> None:
    head = bytearray(40 * MIB)
    head[510:512] = b"\x55\xaa"
    small = settings.model_copy(update={"max_virtual_size_bytes": 32 * MIB})
    error = refusal(MemoryImportSource(gzip.compress(bytes(head), 1)), small)
    assert isinstance(error, ImageError)
    assert error.reason == "VirtualSizeTooLarge"
