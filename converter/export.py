"""A stored disk as a file in a format that other software reads."""

import errno
import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

from converter.draft import draft_of
from converter.nbd.export import ReadableExport
from converter.nbd.server import NbdServer
from converter.qemu_img import QemuImg, refuse_idle
from dvcr.errors import ConfigError, ImageError, NoSpaceError, StorageError

READ_BYTES = 4 * 2**20
EXPORT = "disk"
# It may write to a slow disk meanwhile.
IDLE_TIMEOUT_S = 300.0


class ExportFormat(StrEnum):
    """Formats that a disk can be written as."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VDI = "vdi"
    VHD = "vhd"
    VHDX = "vhdx"


class Compression(StrEnum):
    """How the data in a file are compressed, by its format's own means."""

    NONE = "none"
    ZLIB = "zlib"
    ZSTD = "zstd"


# What qemu-img is asked for, by format and compression; a VMDK that is compressed is streamOptimized, as OVF has it.
_OPTIONS = {
    (ExportFormat.QCOW2, Compression.NONE): ("-O", "qcow2"),
    (ExportFormat.QCOW2, Compression.ZLIB): ("-c", "-O", "qcow2", "-o", "compression_type=zlib"),
    (ExportFormat.QCOW2, Compression.ZSTD): ("-c", "-O", "qcow2", "-o", "compression_type=zstd"),
    (ExportFormat.VMDK, Compression.NONE): ("-O", "vmdk", "-o", "subformat=monolithicSparse"),
    (ExportFormat.VMDK, Compression.ZLIB): ("-O", "vmdk", "-o", "subformat=streamOptimized"),
    (ExportFormat.VDI, Compression.NONE): ("-O", "vdi"),
    # Without force_size the size would be rounded up to whole cylinders.
    (ExportFormat.VHD, Compression.NONE): ("-O", "vpc", "-o", "subformat=dynamic,force_size=on"),
    (ExportFormat.VHDX, Compression.NONE): ("-O", "vhdx", "-o", "subformat=dynamic"),
}


def compressions(format: ExportFormat) -> tuple[Compression, ...]:  # noqa: A002  # the word of the trade, of qemu-img
    """What the format allows, the usual one first: streamOptimized for VMDK, none for the others."""
    known = [compression for name, compression in _OPTIONS if name is format]
    if format is ExportFormat.VMDK:
        known.reverse()
    return tuple(known) or (Compression.NONE,)


def export_image(
    disk: ReadableExport,
    destination: Path,
    format: ExportFormat,  # noqa: A002  # as above
    *,
    compression: Compression | None = None,
    on_progress: Callable[[int], None],
    qemu_img: QemuImg | None = None,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
) -> None:
    """Write `disk` to the file `destination`, replacing what is there.

    Raw is byte for byte the disk, with holes where it is zero. Atomic: the file appears complete and synced, or not at
    all, and nothing else is left behind; what a killed export left goes with the next one to `destination`. Without
    `compression` the format's usual one. `on_progress` gets the bytes of the disk that are done, never fewer than
    before; what it raises stops the export. Raises ConfigError where the format does not know the compression,
    StorageError (NoSpaceError) where the file cannot be written, ImageError `ConversionFailed` (also where qemu-img
    asks for nothing for `idle_timeout_s`), and whatever reading `disk` raises.
    """
    allowed = compressions(format)
    compression = compression or allowed[0]
    if compression not in allowed:
        raise ConfigError(f"{format} cannot be compressed with {compression}; it knows {', '.join(allowed)}")
    try:
        with draft_of(destination) as file:
            if format is ExportFormat.RAW:
                _write_raw(disk, file, on_progress)
            else:
                options = _OPTIONS[format, compression]
                _write_with_qemu_img(disk, file, options, on_progress, qemu_img or QemuImg(), idle_timeout_s)
            _sync(file)
            file.replace(destination)
            _sync(destination.parent)
    except OSError as exc:
        raise cannot_write(destination, exc) from exc
    except ImageError as exc:
        # All that qemu-img tells of a full disk is the system's text for it.
        if exc.reason == "ConversionFailed" and os.strerror(errno.ENOSPC) in exc.message:
            raise NoSpaceError(f"cannot write {destination}: {os.strerror(errno.ENOSPC)}") from exc
        raise
    on_progress(disk.size_bytes)


def _write_raw(disk: ReadableExport, file: Path, on_progress: Callable[[int], None]) -> None:
    with file.open("xb", buffering=0) as out:
        out.truncate(disk.size_bytes)
        offset = 0
        while offset < disk.size_bytes:
            for extent in disk.extents(offset, disk.size_bytes - offset):
                end = offset + extent.length_bytes
                while not extent.zero and offset < end:
                    data = disk.read(offset, min(READ_BYTES, end - offset))
                    _write_at(out.fileno(), data, offset)
                    offset += len(data)
                    on_progress(offset)
                offset = end
                on_progress(offset)


def _write_at(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def _write_with_qemu_img(
    disk: ReadableExport,
    file: Path,
    options: Sequence[str],
    on_progress: Callable[[int], None],
    qemu_img: QemuImg,
    idle_timeout_s: float,
) -> None:
    watched = _Watched(disk)
    with NbdServer(None, {EXPORT: watched}) as server, server.connect() as connection:

        def tick() -> None:
            if server.error is not None:
                raise server.error
            on_progress(watched.done_bytes)
            refuse_idle(server.idle_s(), idle_timeout_s)

        source = f"driver=raw,file.driver=nbd,file.server.type=fd,file.server.str={connection.fileno()}"
        try:
            qemu_img.convert(
                ["-m", "8", *options, "--image-opts", f"{source},file.export={EXPORT}", str(file)],
                sockets=[connection.fileno()],
                virtual_size_bytes=disk.size_bytes,
                writable=file.parent,
                on_tick=tick,
            )
        except ImageError as exc:
            if server.error is not None:
                raise server.error from exc
            raise


class _Watched:
    """An export that remembers how far it was read."""

    def __init__(self, disk: ReadableExport) -> None:
        self.size_bytes = disk.size_bytes
        self.extents = disk.extents
        self.done_bytes = 0
        self._disk = disk

    def read(self, offset_bytes: int, length_bytes: int) -> bytes | bytearray | memoryview:
        data = self._disk.read(offset_bytes, length_bytes)
        self.done_bytes = max(self.done_bytes, offset_bytes + length_bytes)
        return data


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def cannot_write(destination: Path | str, exc: OSError) -> StorageError:
    """The error to raise for what the system said."""
    kind = NoSpaceError if exc.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
    return kind(f"cannot write {destination}: {exc.strerror or exc}")
