"""A stored disk written as a file: what qemu-img reads back, and what is left after a failure."""

import json
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from converter.export import Compression, ExportFormat, compressions, export_image
from converter.nbd.export import Extent
from converter.qemu_img import QemuImg
from dvcr.errors import ConfigError, ImageError, NoSpaceError, RegistryError, StorageError
from tests.support.images import MemoryExport
from tests.support.small_disk import small_disk_of

MIB = 2**20
DISK = random.Random(3).randbytes(3 * MIB) + bytes(8 * MIB) + random.Random(4).randbytes(MIB + 512)


class Disk(MemoryExport):
    """A disk with a hole, as an artifact has it; remembers how much was read."""

    def __init__(self) -> None:
        super().__init__(DISK)
        self.read_bytes = 0

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        self.read_bytes += length_bytes
        return super().read(offset_bytes, length_bytes)

    def extents(self, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        for start, end, zero in ((0, 3 * MIB, False), (3 * MIB, 11 * MIB, True), (11 * MIB, len(DISK), False)):
            first, last = max(start, offset_bytes), min(end, offset_bytes + length_bytes)
            if first < last:
                yield Extent(last - first, zero)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk_of(tmp_path / "small", 2 * MIB) as folder:
        yield folder


WAYS = [(image_format, compression) for image_format in ExportFormat for compression in compressions(image_format)]


@pytest.mark.parametrize(("image_format", "compression"), WAYS)
def test_qemu_img_finds_the_same_disk(image_format: ExportFormat, compression: Compression, tmp_path: Path) -> None:
    file, source = tmp_path / "disk, with: a strange=name.img", tmp_path / "source.raw"
    file.write_bytes(b"former")
    source.write_bytes(DISK)
    seen: list[int] = []
    disk = Disk()
    export_image(disk, file, image_format, compression=compression, on_progress=seen.append)
    qemu_name = "vpc" if image_format is ExportFormat.VHD else image_format
    compared = f"json:{json.dumps({'driver': qemu_name, 'file': {'driver': 'file', 'filename': str(file)}})}"
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", source, compared], check=True)
    info = subprocess.run(["qemu-img", "info", "--output=json", compared], capture_output=True, check=True).stdout
    assert json.loads(info)["virtual-size"] == len(DISK)
    assert seen == sorted(seen)
    assert seen[-1] == len(DISK)
    assert disk.read_bytes < 6 * MIB
    assert file.stat().st_blocks * 512 < 9 * MIB
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("image_format", "compression", "said"),
    [
        (ExportFormat.QCOW2, Compression.ZSTD, "zstd"),
        (ExportFormat.QCOW2, Compression.ZLIB, "zlib"),
        (ExportFormat.VMDK, None, "streamOptimized"),
        (ExportFormat.VMDK, Compression.NONE, "monolithicSparse"),
    ],
)
def test_the_kind_of_file(
    image_format: ExportFormat, compression: Compression | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "disk"
    export_image(Disk(), file, image_format, compression=compression, on_progress=lambda _: None)
    info = subprocess.run(["qemu-img", "info", file], capture_output=True, text=True, check=True).stdout
    assert said in info


@pytest.mark.parametrize("image_format", [ExportFormat.RAW, ExportFormat.VDI, ExportFormat.VHDX])
def test_a_format_that_does_not_compress_says_so(image_format: ExportFormat, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{image_format} cannot be compressed with zlib; it knows none"):
        export_image(Disk(), tmp_path / "x", image_format, compression=Compression.ZLIB, on_progress=lambda _: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image_format", [ExportFormat.RAW, ExportFormat.QCOW2])
def test_a_full_disk_is_named_and_nothing_is_left(image_format: ExportFormat, small_disk: Path) -> None:
    with pytest.raises(NoSpaceError, match=r"disk\.img: No space left"):
        export_image(Disk(), small_disk / "disk.img", image_format, on_progress=lambda _: None)
    assert list(small_disk.iterdir()) == []


def test_a_relative_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export_image(Disk(), Path("disk.qcow2"), ExportFormat.QCOW2, on_progress=lambda _: None)
    assert (tmp_path / "disk.qcow2").exists()


@pytest.mark.parametrize("image_format", [ExportFormat.RAW, ExportFormat.QCOW2])
def test_a_failure_keeps_the_former_file_and_leaves_nothing(image_format: ExportFormat, tmp_path: Path) -> None:
    class Broken(Disk):
        def read(self, offset_bytes: int, length_bytes: int) -> bytes:
            if offset_bytes > 2 * MIB:
                raise RegistryError("gone", code="BLOB_UNKNOWN", status=404)
            return super().read(offset_bytes, length_bytes)

    file = tmp_path / "disk.img"
    file.write_bytes(b"former")
    with pytest.raises(RegistryError) as caught:
        export_image(Broken(), file, image_format, on_progress=lambda _: None)
    assert caught.value.code == "BLOB_UNKNOWN"
    assert file.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        export_image(Disk(), tmp_path / "nowhere" / "x.raw", ExportFormat.RAW, on_progress=lambda _: None)


def test_a_qemu_img_that_hangs_is_stopped(tmp_path: Path) -> None:
    """It asks for nothing for a while: here from the beginning."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "hangs"
        script.write_text("#!/bin/sh\nexec sleep 60\n")
        script.chmod(0o755)
        Path(folder).chmod(0o755)
        with pytest.raises(ImageError) as caught:
            export_image(
                Disk(),
                tmp_path / "disk",
                ExportFormat.QCOW2,
                on_progress=lambda _: None,
                qemu_img=QemuImg(str(script)),
                idle_timeout_s=0.5,
            )
    assert caught.value.reason == "ConversionFailed"
    assert "asked for nothing" in caught.value.message
    assert list(tmp_path.iterdir()) == []
