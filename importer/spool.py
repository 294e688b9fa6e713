"""Bytes of a source that are still needed, in an unnamed file that no crash leaves behind, or in one that is kept."""

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvcr.errors import NoSpaceError, StorageError
from importer.kept import KeptFile

_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01  # linux/falloc.h
_BLOCK_BYTES = 4096
_RESERVE_BYTES = 256 * 2**20
_CHECKED_BYTES = 32 * 2**20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Spool:
    """A sparse file. `write` and `punch` come from one thread each; `read` from any.

    The last 256 MiB of the filesystem are left to others. Imports that run at once do not know of each other: each
    looks again every 32 MiB.
    """

    def __init__(self, folder: Path, job_id: str = "") -> None:
        """With a `job_id`, what the job's last delivery on this machine had spooled is taken up."""
        self._folder = folder
        self._punched = 0
        self._unchecked_bytes = 0
        self.identity: Mapping[str, Any] | None = None
        """What the kept bytes were noted with; None where there are none."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._kept = KeptFile.open(folder, job_id) if job_id else None
            self._file = self._kept.file if self._kept else tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by `close`)
            self.identity = self._kept.identity if self._kept else None
        except OSError as exc:
            raise self._failed(exc) from exc

    @property
    def kept_bytes(self) -> int:
        """How many bytes, from the first on, are there."""
        return os.fstat(self._file.fileno()).st_size

    def note(self, identity: Mapping[str, Any] | None) -> None:
        """Record what proves later whose bytes these are; without, or without a job, nothing is kept."""
        if self._kept is not None:
            try:
                self._kept.note(identity)
            except OSError as exc:
                raise self._failed(exc) from exc

    def restart(self) -> None:
        """Forget what is there; more may be written."""
        self._file.truncate(0)
        self.identity = None

    def free_bytes(self) -> int:
        """What the folder's filesystem can still take."""
        return shutil.disk_usage(self._folder).free

    def room_bytes(self) -> int:
        """What may still be written, as far as nobody else writes there."""
        return max(0, self.free_bytes() - _RESERVE_BYTES)

    def stored_bytes(self) -> int:
        """Bytes that the file takes on the filesystem."""
        return os.fstat(self._file.fileno()).st_blocks * 512

    def write(self, offset_bytes: int, data: bytes | memoryview) -> None:
        """Put `data` at `offset_bytes`; NoSpaceError where the filesystem has no more than the reserve."""
        view = memoryview(data)
        self._check_room(len(view))
        try:
            while view:
                written = os.pwrite(self._file.fileno(), view, offset_bytes)
                view, offset_bytes = view[written:], offset_bytes + written
        except OSError as exc:
            raise self._failed(exc) from exc

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """That range; shorter only at the end of what was written."""
        data = os.pread(self._file.fileno(), length_bytes, offset_bytes)
        while len(data) < length_bytes:
            more = os.pread(self._file.fileno(), length_bytes - len(data), offset_bytes + len(data))
            if not more:
                break
            data += more
        return data

    def punch(self, end_bytes: int) -> None:
        """Free the place of everything before `end_bytes`, in whole blocks; a filesystem that cannot keeps it."""
        end = end_bytes // _BLOCK_BYTES * _BLOCK_BYTES
        if end > self._punched:
            start, self._punched = self._punched, end
            self._forget()  # a file with holes is nothing to go on from
            if _libc.fallocate(self._file.fileno(), _PUNCH_HOLE_KEEP_SIZE, start, end - start) != 0:
                number = ctypes.get_errno()
                if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise self._failed(OSError(number, os.strerror(number)))

    def close(self, *, keep: bool = False) -> None:
        """Forget the bytes, unless the job's next delivery is to go on from them, and can. Idempotent."""
        if self._kept is not None and not (keep and self._kept.identity is not None and self.kept_bytes):
            self._forget()
        self._kept = None
        self._file.close()

    def _check_room(self, length_bytes: int) -> None:
        self._unchecked_bytes -= length_bytes
        if self._unchecked_bytes < 0:
            if not self.room_bytes():
                raise NoSpaceError(
                    f"the image needs scratch space during the conversion, and {self._folder} has only "
                    f"{self.free_bytes()} bytes free, of which 256 MiB are left to others; free some, or set "
                    "importer.scratch_dir elsewhere"
                )
            self._unchecked_bytes = _CHECKED_BYTES

    def _forget(self) -> None:
        if self._kept is not None:
            self._kept.forget()
            self._kept = None

    def _failed(self, exc: OSError) -> StorageError:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpaceError(f"no space left in {self._folder}; free some, or set importer.scratch_dir elsewhere")
        return StorageError(f"cannot use {self._folder} (importer.scratch_dir): {exc.strerror}")
