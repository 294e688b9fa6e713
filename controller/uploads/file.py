"""The file that is to become an image."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from converter.inspect import HEAD_BYTES, inspect
from converter.ova import TarDisk, is_tar
from converter.source import ByteSource
from converter.wrappers import wrapper_of
from dvcr.errors import SourceError

_BLOCK_BYTES = 2**20
Progress = Callable[[int], None]


class LocalFile:
    """An open file, all of which is here. Not safe from several threads."""

    def __init__(self, path: Path, file: BinaryIO, total_bytes: int) -> None:
        self.path = path
        self.total_bytes = total_bytes
        self._file = file

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator["LocalFile"]:
        """Raises SourceError for what is missing, empty, unreadable or no regular file."""
        if path.is_dir():
            raise SourceError(f"{path} is a folder; name the file of the image")
        if path.exists() and not path.is_file():
            raise SourceError(f"{path} is no regular file; an upload that can go on after a cut needs one")
        try:
            file = path.open("rb")
        except FileNotFoundError as exc:
            raise SourceError(f"there is no file {path}") from exc
        except OSError as exc:
            raise _unreadable(path, exc) from exc
        with file:
            total_bytes = path.stat().st_size
            if not total_bytes:
                raise SourceError(f"{path} is empty; name the file of the image")
            yield cls(path, file, total_bytes)

    def size_bytes(self) -> int:
        """The length when the file was opened."""
        return self.total_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The bytes of that range; fewer only at the end. Raises SourceError."""
        try:
            self._file.seek(offset_bytes)
            return self._file.read(max(0, min(length_bytes, self.total_bytes - offset_bytes)))
        except OSError as exc:
            raise _unreadable(self.path, exc) from exc

    def release(self, offset_bytes: int) -> None:
        """Nothing is freed."""

    def finish(self) -> None:
        """Nothing is fetched."""

    def sha256(self, progress: Progress) -> str:
        """Hex of the checksum of all bytes; `progress` is told how many were read. Raises SourceError."""
        checksum = hashlib.sha256()
        for offset in range(0, self.total_bytes, _BLOCK_BYTES):
            checksum.update(self.block(offset, self.total_bytes))
            progress(min(offset + _BLOCK_BYTES, self.total_bytes))
        return checksum.hexdigest()

    def block(self, offset_bytes: int, end_bytes: int) -> bytes:
        """The bytes from an offset, a block at most. Raises SourceError if they are not there any more."""
        length = min(_BLOCK_BYTES, end_bytes - offset_bytes)
        data = self.read_at(offset_bytes, length)
        if len(data) < length:
            raise SourceError(f"{self.path} became shorter meanwhile; upload it when nobody writes to it")
        return data


def refuse_early(file: ByteSource, *, max_virtual_size_bytes: int) -> None:
    """Raise the ImageError that the import would raise in the end, where headers and tables prove it.

    A disk in an archive is looked at, too; one in a compressed file only by the import.
    """
    head = file.read_at(0, HEAD_BYTES)
    if wrapper_of(head) is not None:
        return
    disk: ByteSource = file
    if is_tar(head):
        disk = TarDisk(file)
        if wrapper_of(disk.read_at(0, HEAD_BYTES)) is not None:
            return
    inspect(disk, max_virtual_size_bytes=max_virtual_size_bytes)


def _unreadable(path: Path, exc: OSError) -> SourceError:
    return SourceError(f"cannot read {path}: {exc.strerror or exc}")
