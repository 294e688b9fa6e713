"""A storage folder that cannot be had."""

from pathlib import Path

import pytest

from dvcr.errors import StorageError
from dvcr.storage.filesystem import FilesystemStorage


@pytest.mark.parametrize("root", ["/proc/dvcr", "/proc/dvcr/deep/er"])
def test_where_no_folder_can_be(root: str) -> None:
    with pytest.raises(StorageError, match=f"{root}/.uploads: the folder cannot be made"):
        FilesystemStorage(Path(root))


def test_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        FilesystemStorage(tmp_path / "file")


def test_missing_parents_are_made(tmp_path: Path) -> None:
    storage = FilesystemStorage(tmp_path / "a" / "b" / "c")
    storage.write("x/y/z", b"value")
    assert (tmp_path / "a" / "b" / "c" / "x" / "y" / "z").read_bytes() == b"value"
