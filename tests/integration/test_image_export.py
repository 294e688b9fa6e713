"""A stored disk written as a file: what qemu-img reads back, and what is left after a failure."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from converter.export import ExportFormat, export_image
from converter.nbd.export import Extent
from dvcr.errors import RegistryError, StorageError
from tests.support.images import MemoryExport, reference

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


@pytest.mark.parametrize("image_format", ExportFormat)
def test_qemu_img_reads_the_same_disk(image_format: ExportFormat, tmp_path: Path) -> None:
    file = tmp_path / "disk, with: a strange=name.img"
    file.write_bytes(b"former")
    seen: list[int] = []
    disk = Disk()
    export_image(disk, file, image_format, on_progress=seen.append)
    assert reference(tmp_path, file.read_bytes(), image_format) == DISK
    assert seen == sorted(seen)
    assert seen[-1] == len(DISK)
    assert disk.read_bytes < 6 * MIB
    assert file.stat().st_blocks * 512 < 9 * MIB
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


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
