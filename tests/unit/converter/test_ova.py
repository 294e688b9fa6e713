"""Which file of an archive is its disk."""

import tarfile

import pytest

from converter.ova import TarDisk
from dvcr.errors import ImageError
from tests.support.archives import tar_of
from tests.support.images import MemorySource

DISK = b"some data " * 500
LONG = "folder/" * 30
FORMATS = [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("tar_format", FORMATS)
@pytest.mark.parametrize(
    "members",
    [
        [(f"{LONG}a.ovf", b"<Envelope/>"), (f"{LONG}a.vmdk", DISK), (f"{LONG}a.mf", b"sums")],
        [("._disk.qcow2", b"\0\5\x16\7"), ("disk.qcow2", DISK), ("a/._b", b"\0\5\x16\7")],
        [(f"{LONG}._disk.qcow2", b"\0\5\x16\7"), (f"{LONG}disk.qcow2", DISK)],
        [(f"{LONG}a.ovf", b"<Envelope/>"), ("disk", DISK)],
    ],
    ids=["long names", "of macOS", "of macOS, long names", "a short name after a long one"],
)
def test_what_stands_beside_the_disk_is_passed_over(tar_format: int, members: list[tuple[str, bytes]]) -> None:
    disk = TarDisk(MemorySource(tar_of(*members, archive_format=tar_format)))
    assert disk.read_at(0, disk.size_bytes()) == DISK
    disk.finish()


@pytest.mark.parametrize("tar_format", FORMATS)
def test_two_disks_with_long_names_are_refused(tar_format: int) -> None:
    data = tar_of((f"{LONG}a.vmdk", DISK), (f"{LONG}b.vmdk", DISK), archive_format=tar_format)
    disk = TarDisk(MemorySource(data))
    with pytest.raises(ImageError) as caught:
        disk.finish()
    assert caught.value.reason == "MultipleDisksRefused"


def test_a_long_name_of_a_gibibyte_is_refused() -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**30
    with pytest.raises(ImageError, match="a header of 1073741824 bytes") as caught:
        TarDisk(MemorySource(header.tobuf(tarfile.GNU_FORMAT) + b"x" * 10_000))
    assert caught.value.reason == "CorruptImage"
