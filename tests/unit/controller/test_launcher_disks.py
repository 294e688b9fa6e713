from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.launcher import qcow2
from controller.launcher.disks import WatchedExport, exports, prepare
from controller.launcher.spec import DiskSpec, ImageReference
from converter.nbd.export import Extent
from dvcr.errors import ImageError, RegistryError, StorageError

MIB = 2**20
IMAGE = ImageReference(repository="vmi/prod/debian", digest="sha256:" + "a" * 64)


class FakeImage:
    size_bytes = 8 * MIB
    away = False

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        if self.away:
            raise RegistryError("the registry is away", status=503)
        return bytes(length_bytes)

    def extents(self, offset_bytes: int, length_bytes: int) -> Iterator[Extent]:
        yield Extent(length_bytes, zero=False)


class Registry:
    def __init__(self) -> None:
        self.opened: list[ImageReference] = []

    def open_image(self, reference: ImageReference) -> FakeImage:
        self.opened.append(reference)
        return FakeImage()


def disk(**changes: object) -> DiskSpec:
    return DiskSpec.model_validate({"name": "system", "kind": "disk", "path": "/vol/disk.qcow2"} | changes)


def test_an_empty_disk_is_made_with_its_size(tmp_path: Path) -> None:
    (prepared,) = prepare([disk(size_bytes=16 * MIB)], tmp_path, Registry().open_image)

    assert qcow2.read_header(tmp_path / "vol/disk.qcow2") == qcow2.Qcow2Header(16 * MIB, None)
    assert (prepared.streams, prepared.grow_to_bytes, prepared.drive.export) == (False, None, None)


def test_a_disk_from_an_image_names_the_artifact_until_it_stands_alone(tmp_path: Path) -> None:
    (prepared,) = prepare([disk(size_bytes=16 * MIB, image=IMAGE)], tmp_path, Registry().open_image)

    header = qcow2.read_header(tmp_path / "vol/disk.qcow2")
    assert header == qcow2.Qcow2Header(16 * MIB, f"dvcr:vmi/prod/debian@{IMAGE.digest}")
    assert prepared.streams
    assert list(exports([prepared])) == [IMAGE.digest]


def test_a_disk_without_a_size_has_that_of_its_image(tmp_path: Path) -> None:
    prepare([disk(image=IMAGE)], tmp_path, Registry().open_image)

    assert qcow2.read_header(tmp_path / "vol/disk.qcow2").virtual_size_bytes == 8 * MIB


def test_a_disk_that_exists_goes_on_with_the_image_that_it_names_itself(tmp_path: Path) -> None:
    prepare([disk(image=IMAGE)], tmp_path, Registry().open_image)
    registry = Registry()
    newer = ImageReference(repository="vmi/prod/debian", digest="sha256:" + "b" * 64)

    (prepared,) = prepare([disk(image=newer)], tmp_path, registry.open_image)

    assert registry.opened == [IMAGE]
    assert prepared.drive.export == IMAGE.digest


def test_a_disk_that_stands_alone_needs_no_registry(tmp_path: Path) -> None:
    prepare([disk(size_bytes=MIB)], tmp_path, Registry().open_image)
    registry = Registry()

    prepare([disk(size_bytes=MIB, image=IMAGE)], tmp_path, registry.open_image)

    assert registry.opened == []


def test_a_larger_specification_grows_the_disk_and_a_smaller_one_does_not_shrink_it(tmp_path: Path) -> None:
    prepare([disk(size_bytes=2 * MIB)], tmp_path, Registry().open_image)

    (larger,) = prepare([disk(size_bytes=4 * MIB)], tmp_path, Registry().open_image)
    (smaller,) = prepare([disk(size_bytes=MIB)], tmp_path, Registry().open_image)

    assert (larger.grow_to_bytes, smaller.grow_to_bytes) == (4 * MIB, None)


def test_a_disk_smaller_than_its_image_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="smaller than its image") as caught:
        prepare([disk(size_bytes=MIB, image=IMAGE)], tmp_path, Registry().open_image)

    assert caught.value.reason == "DiskTooSmall"
    assert not (tmp_path / "vol").exists()


def test_two_drives_of_one_image_share_it(tmp_path: Path) -> None:
    registry = Registry()
    image = DiskSpec(name="tools", kind="image", image=IMAGE, cdrom=True)

    system, tools = prepare([disk(image=IMAGE), image], tmp_path, registry.open_image)

    assert registry.opened == [IMAGE]
    assert system.export is tools.export
    assert (tools.drive.path, tools.drive.cdrom, tools.streams) == (None, True, False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "CorruptImage"), (b"<html>" * 10, "CorruptImage"), (b"QFI\xfb", "CorruptImage")],
)
def test_what_is_no_qcow2_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "vol").mkdir()
    (tmp_path / "vol/disk.qcow2").write_bytes(content)

    with pytest.raises(ImageError) as caught:
        prepare([disk(size_bytes=MIB)], tmp_path, Registry().open_image)

    assert caught.value.reason == reason


def test_a_foreign_backing_file_is_never_opened(tmp_path: Path) -> None:
    qcow2.create(tmp_path / "vol/disk.qcow2", MIB, "/etc/shadow")

    with pytest.raises(ImageError, match="foreign backing file '/etc/shadow'"):
        prepare([disk(size_bytes=MIB)], tmp_path, Registry().open_image)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "vol").write_text("in the way")

    with pytest.raises(StorageError, match=r"cannot make the folder .*vol: File exists"):
        prepare([disk(size_bytes=MIB)], tmp_path, Registry().open_image)


def test_a_read_that_failed_is_tried_again_without_the_guest() -> None:
    image = FakeImage()
    watched = WatchedExport(image)
    image.away = True
    with pytest.raises(RegistryError):
        watched.read(4096, 512)

    assert not watched.recovered()
    assert str(watched.error) == "the registry is away"
    image.away = False
    assert watched.recovered()
    assert watched.error is None


def device(path: Path, size_bytes: int = 32 * MIB) -> DiskSpec:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.truncate(size_bytes)
    return disk(size_bytes=16 * MIB, device=True, path=f"/{path.relative_to(path.parents[1])}")


def test_a_blank_device_becomes_the_disk_once_and_keeps_its_length(tmp_path: Path) -> None:
    path = tmp_path / "vol/device"
    (prepared,) = prepare([device(path).model_copy(update={"image": IMAGE})], tmp_path, Registry().open_image)

    assert prepared.streams
    assert qcow2.read_header(path) == qcow2.Qcow2Header(16 * MIB, f"dvcr:vmi/prod/debian@{IMAGE.digest}")
    assert path.stat().st_size == 32 * MIB
    with path.open("r+b") as file:
        file.seek(20 * MIB)
        file.write(b"guest")
    prepare([device(path)], tmp_path, Registry().open_image)
    assert path.read_bytes()[20 * MIB : 20 * MIB + 5] == b"guest"


def test_a_device_with_something_else_on_it_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "vol/device"
    spec = device(path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"precious")

    with pytest.raises(ImageError, match="holds something that is no qcow2 disk"):
        prepare([spec], tmp_path, Registry().open_image)
    assert path.read_bytes()[4096:4104] == b"precious"


def test_a_device_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read the device"):
        prepare([disk(size_bytes=MIB, device=True)], tmp_path, Registry().open_image)
    assert not (tmp_path / "vol").exists()
