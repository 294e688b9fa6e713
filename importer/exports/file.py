"""Images to files and to standard output."""

import errno
import fcntl
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from converter.export import READ_BYTES, Compression, ExportFormat, cannot_write, export_image
from converter.nbd.export import ReadableExport
from converter.nbd.image import ImageExport
from dvcr.artifact.reader import ImageReader
from dvcr.artifact.store import fetch
from dvcr.cli.bars import progress_bars
from dvcr.client.registry import RegistryClient
from dvcr.config import Settings
from dvcr.errors import ConfigError, StorageError
from importer.reference import ImageReference

STDOUT = Path("-")
_READ_AHEAD = 4


def export_to_file(settings: Settings, name: str, destination: Path, format_: str, compress: str) -> None:
    """Write the image to `destination`, in the format that is named or that the suffix says; `-` is standard output."""
    export_format = parse_format(format_ or _format_of(destination))
    compression = parse_compression(compress)
    if destination == STDOUT and sys.stdout.isatty():
        raise ConfigError("a disk is not written to a terminal; redirect the output to a file or a pipe")
    with opened(settings, name) as reader, progress_bars() as bars:
        disk = ImageExport(reader)
        task = bars.add_task("export", total=disk.size_bytes)

        def on_progress(done: int) -> None:
            bars.update(task, completed=done)

        if destination != STDOUT:
            export_image(disk, destination, export_format, compression=compression, on_progress=on_progress)
        elif export_format is ExportFormat.RAW:
            _refuse_compressed_raw(compression)
            _stream_raw(disk, sys.stdout.buffer, on_progress)
        else:
            with scratch(settings) as folder:
                file = folder / "disk"
                export_image(disk, file, export_format, compression=compression, on_progress=on_progress)
                with file.open("rb") as data, _reader_kept():
                    shutil.copyfileobj(data, sys.stdout.buffer, READ_BYTES)
                    sys.stdout.buffer.flush()


def parse_format(text: str) -> ExportFormat:
    """The format of that name; ConfigError with those that there are."""
    try:
        return ExportFormat(text.lower())
    except ValueError:
        known = ", ".join(ExportFormat)
        raise ConfigError(f"{text!r} is no format to export to; use --format: {known}") from None


def parse_compression(text: str) -> Compression | None:
    """The compression of that name, None for the format's usual one; ConfigError with those that there are."""
    try:
        return Compression(text.lower()) if text else None
    except ValueError:
        raise ConfigError(f"{text!r} is no compression; use --compress: {', '.join(Compression)}") from None


@contextmanager
def opened(settings: Settings, name: str) -> Iterator[ImageReader]:
    """The disk of an image in the registry of the settings."""
    reference = ImageReference.parse(name)
    repository = reference.of(RegistryClient.from_settings(settings.client))
    stored = fetch(repository, reference.reference)
    with ImageReader(repository, stored.image, read_ahead=_READ_AHEAD) as reader:
        yield reader


@contextmanager
def scratch(settings: Settings) -> Iterator[Path]:
    """A folder of its own below `importer.scratch_dir`, gone at the end. StorageError where it cannot be made."""
    parent = settings.importer.scratch_dir
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="export-", dir=parent))
    except OSError as exc:
        raise StorageError(f"importer.scratch_dir: cannot write to {parent}: {exc.strerror}") from exc
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _format_of(destination: Path) -> str:
    if destination == STDOUT:
        return ExportFormat.RAW
    suffix = destination.suffix.lstrip(".").lower()
    return {"img": "raw", "vpc": "vhd"}.get(suffix, suffix or destination.name)


def _refuse_compressed_raw(compression: Compression | None) -> None:
    if compression not in (None, Compression.NONE):
        raise ConfigError(f"raw cannot be compressed with {compression}; pipe it through a program that does")


def _stream_raw(disk: ReadableExport, out: BinaryIO, on_progress: Callable[[int], None]) -> None:
    """The disk, byte for byte. Where `out` is a file, what is zero becomes a hole."""
    sparse = _takes_holes(out)
    zeroes = bytes(READ_BYTES)
    offset = 0
    with _reader_kept():
        while offset < disk.size_bytes:
            for extent in disk.extents(offset, disk.size_bytes - offset):
                end = offset + extent.length_bytes
                if extent.zero and sparse:
                    out.seek(end - offset, os.SEEK_CUR)
                    offset = end
                while offset < end:
                    length = min(READ_BYTES, end - offset)
                    out.write(zeroes[:length] if extent.zero else disk.read(offset, length))
                    offset += length
                    on_progress(offset)
        if sparse:
            out.truncate()
        out.flush()
    on_progress(offset)


def _takes_holes(out: BinaryIO) -> bool:
    """Whether `out` is an empty file that may be written anywhere; one that is appended to may not."""
    status = os.fstat(out.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size > 0:
        return False
    return not fcntl.fcntl(out.fileno(), fcntl.F_GETFL) & os.O_APPEND


@contextmanager
def _reader_kept() -> Iterator[None]:
    """Where the reader of standard output leaves, or its disk is full, say so."""
    try:
        yield
    except OSError as exc:
        if exc.errno == errno.EPIPE:
            # What is left in the buffer cannot be written either, and Python would complain of it at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise StorageError("the reader of the output left before its end", reason="OutputClosed") from exc
        raise cannot_write("standard output", exc) from exc
