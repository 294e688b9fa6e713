"""What is known of a local file before anything of it is sent."""

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from controller.uploads.file import LocalFile, refuse_early
from dvcr.errors import ImageError, SourceError

PDF = b"%PDF-1.7\n" + bytes(2**20)
DISK = bytes(510) + b"\x55\xaa" + bytes(3 * 2**20)


def tar(content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("disk.img")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with LocalFile.open(path) as file:
        refuse_early(file, max_virtual_size_bytes=2**40)


@pytest.mark.parametrize("content", [PDF, tar(PDF)])
def test_what_is_no_disk_is_refused_also_in_an_archive(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ImageError, match="a PDF document"):
        refuse(tmp_path / "disk", content)


@pytest.mark.parametrize("content", [DISK, tar(DISK), gzip.compress(PDF), tar(gzip.compress(PDF))])
def test_a_disk_and_what_only_the_import_can_tell_pass(tmp_path: Path, content: bytes) -> None:
    refuse(tmp_path / "disk", content)


def test_the_checksum_is_that_of_all_bytes(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(DISK)
    read: list[int] = []
    with LocalFile.open(path) as file:
        assert file.sha256(read.append) == hashlib.sha256(DISK).hexdigest()
    assert read == [2**20, 2 * 2**20, 3 * 2**20, len(DISK)]


def test_a_file_that_becomes_shorter_is_told(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(DISK)
    with LocalFile.open(path) as file:
        path.write_bytes(DISK[:100])
        with pytest.raises(SourceError, match="became shorter"):
            file.block(0, file.total_bytes)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path, problem in (
        (tmp_path, "is a folder"),
        (tmp_path / "missing", "there is no file"),
        (tmp_path / "empty", "is empty"),
        (Path("/dev/null"), "is no regular file"),
    ):
        with pytest.raises(SourceError, match=problem), LocalFile.open(path):
            pass
