"""The little that the launcher does to a qcow2 itself: make one, read its header, and find what it has of its own."""

import json
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dvcr.errors import ImageError, NoSpaceError, ResourceError, StorageError

MAGIC = b"QFI\xfb"
# QEMU's docs/interop/qcow2.txt: magic, version, offset and length of the backing file's name, cluster bits, size.
_HEADER = struct.Struct(">4sIQIIQ")
BACKING_FIELDS = range(8, 20)
"""Where the header says that there is a backing file."""
MAX_BACKING_BYTES = 1023
SECTOR_BYTES = 512
_BLANK_BYTES = 64 * 2**10


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


def is_made(path: Path, *, device: bool) -> bool:
    """Whether there is a disk at `path`. A device that is there already must hold one or begin with zeroes.

    Raises ImageError for a device with something else on it: it is never overwritten. StorageError if it is not there.
    """
    if not device:
        return path.exists()
    try:
        with path.open("rb") as file:
            start = file.read(_BLANK_BYTES)
    except OSError as exc:
        raise StorageError(f"cannot read the device {path}: {exc.strerror}", retryable=False) from exc
    if start.startswith(MAGIC):
        return True
    if start.strip(b"\0"):
        message = f"the volume at {path} holds something that is no qcow2 disk; wipe its beginning if that can go"
        raise ImageError(message, reason="ForeignData")
    return False


def create(path: Path, virtual_size_bytes: int, backing: str | None, *, device: bool = False) -> None:
    """Make an empty qcow2 over `backing`, which is only named, not opened. Atomic: `path` is whole or not made.

    On a device it takes the place of what was there.
    """
    try:
        if device:
            with tempfile.TemporaryDirectory() as folder:
                whole = Path(folder) / "disk.qcow2"
                _run_create(whole, path, virtual_size_bytes, backing)
                _write_onto(path, whole.read_bytes())
            return
        _make_folder(path.parent)
        partial = path.with_name(f".{path.name}.new")
        try:
            _run_create(partial, path, virtual_size_bytes, backing)
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as exc:
        raise StorageError(f"cannot make the disk {path}: {exc.strerror}", retryable=False) from exc


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(f"cannot make the folder {path}: {exc.strerror}", retryable=False) from exc


def _run_create(file: Path, path: Path, virtual_size_bytes: int, backing: str | None) -> None:
    command = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if backing is not None:
        # -u: the name is ours, and means nothing to qemu-img.
        command += ["-u", "-b", backing, "-F", "raw"]
    done = subprocess.run([*command, str(file), str(virtual_size_bytes)], capture_output=True, check=False)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        if "No space left" in message:
            raise NoSpaceError(f"cannot make the disk {path}: {message}")
        raise StorageError(f"cannot make the disk {path}: {message}", retryable=False)


def _write_onto(device: Path, data: bytes) -> None:
    fd = os.open(device, os.O_WRONLY)
    try:
        # The sector that says that there is a disk comes last.
        for start, end in ((SECTOR_BYTES, len(data)), (0, SECTOR_BYTES)):
            while start < end:
                start += os.pwrite(fd, data[start:end], start)
            os.fsync(fd)
    finally:
        os.close(fd)


def driver(path: Path) -> str:
    """QEMU's driver for the file or device at `path`."""
    return "host_device" if path.is_block_device() else "file"


def allocated(path: Path) -> Iterator[tuple[int, int]]:
    """Offset and length of each run that the qcow2 at `path` has of its own, zeroes too, whatever lies below it.

    Raises ImageError for a broken file, ResourceError `DiskInUse`, retryable, while something writes to it.
    """
    options = {"driver": "qcow2", "file": {"driver": driver(path), "filename": str(path)}, "backing": None}
    command = ["qemu-img", "map", "--output=json", f"json:{json.dumps(options)}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # An object a line, in a list: a disk of many pieces is never held as a whole.
        for line in process.stdout:
            text = line.strip().lstrip("[").rstrip(",]")
            if text:
                extent = json.loads(text)
                if extent["present"]:
                    yield extent["start"], extent["length"]
        message = process.stderr.read().strip()
    if process.returncode:
        if "lock" in message:
            raise ResourceError(f"the disk {path} is being written to: {message}", reason="DiskInUse", retryable=True)
        raise ImageError(f"the disk {path} cannot be read: {message}", reason="CorruptImage")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
