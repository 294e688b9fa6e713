"""The little that the launcher does to a qcow2 itself: make one, and read what its header says."""

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dvcr.errors import ImageError, NoSpaceError, StorageError

MAGIC = b"QFI\xfb"
# QEMU's docs/interop/qcow2.txt: magic, version, offset and length of the backing file's name, cluster bits, size.
_HEADER = struct.Struct(">4sIQIIQ")
MAX_BACKING_BYTES = 1023


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    """What matters of a qcow2's header."""

    virtual_size_bytes: int
    backing: str | None
    """Name of the image below; None: the file stands alone."""


def read_header(path: Path) -> Qcow2Header:
    """The header of the qcow2 at `path`; ImageError if it is none."""
    with path.open("rb") as file:
        start = file.read(_HEADER.size)
        if len(start) < _HEADER.size or not start.startswith(MAGIC):
            raise ImageError(f"{path} is no qcow2 disk", reason="CorruptImage")
        _, _, backing_offset, backing_length, _, size = _HEADER.unpack(start)
        if not backing_offset:
            return Qcow2Header(size, None)
        if backing_length > MAX_BACKING_BYTES:
            raise ImageError(f"the header of {path} is damaged", reason="CorruptImage")
        file.seek(backing_offset)
        return Qcow2Header(size, file.read(backing_length).decode(errors="replace"))


def create(path: Path, virtual_size_bytes: int, backing: str | None) -> None:
    """Make an empty qcow2 over `backing`, which is only named, not opened. Atomic: `path` is whole or not there."""
    partial = path.with_name(f".{path.name}.new")
    command = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if backing is not None:
        # -u: the name is ours, and means nothing to qemu-img.
        command += ["-u", "-b", backing, "-F", "raw"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(f"cannot make the folder {path.parent}: {exc.strerror}", retryable=False) from exc
    try:
        done = subprocess.run([*command, str(partial), str(virtual_size_bytes)], capture_output=True, check=False)
        if done.returncode:
            message = done.stderr.decode(errors="replace").strip()
            if "No space left" in message:
                raise NoSpaceError(f"cannot make the disk {path}: {message}")
            raise StorageError(f"cannot make the disk {path}: {message}", retryable=False)
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    except OSError as exc:
        raise StorageError(f"cannot make the disk {path}: {exc.strerror}", retryable=False) from exc
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
