"""The one disk in a tar archive: OVA appliances, and the archives in which clouds hand out disks."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from converter import pax
from converter.source import ByteSource, StreamingSource
from dvcr.errors import ImageError

BLOCK_BYTES = 512
_MAX_RECORDS_BYTES = 2**20
_MAX_MEMBERS = 1000
# What stands beside the disks of an appliance; it is not looked at.
_DESCRIPTIONS = (".ovf", ".mf", ".cert", ".nvram", ".xml", ".txt", ".json", ".strings", ".md", ".sha256", ".md5")
# What macOS keeps of a file beside it (RFC 1740, "AppleDouble").
_APPLE_DOUBLE = "._"
_SPARSE = "GNU.sparse."


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    at: int
    size_bytes: int


def is_tar(head: bytes) -> bool:
    """Whether a tar archive begins here (POSIX ustar or GNU)."""
    return head[257:262] == b"ustar"


class TarDisk:
    """The disk in the tar archive `source` as a ByteSource: no byte is copied.

    Whatever else the archive holds must be descriptions (`.ovf`, `.mf`, ...). Finding the disk needs only what is
    before it; what comes behind it is looked at in `finish`. Raises ImageError: `MultipleDisksRefused`,
    `UnknownFormat` where there is no disk, `TruncatedImage`, `CorruptImage`.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._members = _disks(source)
        disk = next(self._members, None)
        if disk is None:
            raise ImageError("this is a tar archive without a disk in it", reason="UnknownFormat")
        self._disk = disk
        if source.total_bytes is not None and disk.at + disk.size_bytes > source.total_bytes:
            raise _cut(source.total_bytes)

    @property
    def total_bytes(self) -> int | None:
        """The length, as the archive tells it."""
        return self._disk.size_bytes

    def size_bytes(self) -> int:
        """The length, as the archive tells it."""
        return self._disk.size_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The bytes of that range of the disk."""
        length_bytes = max(0, min(length_bytes, self._disk.size_bytes - offset_bytes))
        if not length_bytes:
            return b""
        data = self._source.read_at(self._disk.at + offset_bytes, length_bytes)
        if len(data) < length_bytes:
            raise _cut(self._disk.at + offset_bytes + len(data))
        return data

    def release(self, offset_bytes: int) -> None:
        """Pass it on."""
        self._source.release(self._disk.at + min(offset_bytes, self._disk.size_bytes))

    def finish(self) -> None:
        """Make sure that there is no other disk, then finish the source."""
        other = next(self._members, None)
        if other is not None:
            raise ImageError(
                f"the archive holds more than one disk ({self._disk.name!r} and {other.name!r}); import each by itself",
                reason="MultipleDisksRefused",
            )
        self._source.finish()


class StreamingTarDisk(TarDisk):
    """A TarDisk in a source that reads ahead, which then does so, too."""

    def __init__(self, source: StreamingSource) -> None:
        super().__init__(source)
        self._streaming = source

    @property
    def window_bytes(self) -> int:
        """That of the source."""
        return self._streaming.window_bytes

    def read_ahead(self, offset_bytes: int, length_bytes: int) -> bytes | None:
        """The bytes of that range of the disk."""
        length_bytes = max(0, min(length_bytes, self._disk.size_bytes - offset_bytes))
        return self._streaming.read_ahead(self._disk.at + offset_bytes, length_bytes) if length_bytes else b""


def disk_in_tar(source: ByteSource) -> TarDisk:
    """The disk in the archive; raises what TarDisk raises."""
    return StreamingTarDisk(source) if isinstance(source, StreamingSource) else TarDisk(source)


def _disks(source: ByteSource) -> Iterator[_Member]:
    """The files that are no descriptions, in order."""
    at, seen, records = 0, 0, dict[str, str]()
    while True:
        block = source.read_at(at, BLOCK_BYTES)
        if not block and at:
            return  # without the two blocks of zeroes at the end, as some tools write it
        if len(block) < BLOCK_BYTES:
            raise _cut(at + len(block))
        if not any(block):
            return
        seen += 1
        if seen > _MAX_MEMBERS:
            raise ImageError(
                f"the archive holds more than {_MAX_MEMBERS} files; import its disk by itself", reason="CorruptImage"
            )
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except (tarfile.HeaderError, ValueError, OverflowError) as exc:
            raise ImageError(
                f"the tar archive is damaged at byte {at} ({exc}); fetch or pack it again", reason="CorruptImage"
            ) from exc
        size = info.size
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            records |= _records(_header(source, at + BLOCK_BYTES, size), at + BLOCK_BYTES)
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            records["path"] = _header(source, at + BLOCK_BYTES, size).partition(b"\0")[0].decode(errors="replace")
        elif info.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            size = pax.file_size(records, size) if info.type in tarfile.REGULAR_TYPES else 0
            name = records.get("path", info.name)
            if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith(_SPARSE) for key in records):
                raise ImageError(
                    f"{name[:100]!r} is stored sparsely in the archive; pack it again without --sparse, or import it "
                    "by itself",
                    reason="SparseArchiveRefused",
                )
            if size and not _is_description(name):
                yield _Member(name[:100], at + BLOCK_BYTES, size)
            records = {}
        if size < 0:
            raise ImageError(f"the tar archive is damaged at byte {at}: a negative size", reason="CorruptImage")
        at += BLOCK_BYTES + -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _is_description(name: str) -> bool:
    return name.lower().endswith(_DESCRIPTIONS) or name.rpartition("/")[2].startswith(_APPLE_DOUBLE)


def _header(source: ByteSource, at: int, size_bytes: int) -> bytes:
    """The content of an extension header: what is said of the next file."""
    if not 0 <= size_bytes <= _MAX_RECORDS_BYTES:
        raise ImageError(f"the tar archive has a header of {size_bytes} bytes", reason="CorruptImage")
    return source.read_at(at, size_bytes)


def _records(header: bytes, at: int) -> dict[str, str]:
    """The records of a pax header (POSIX.1, "pax Extended Header")."""
    try:
        return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in pax.records(header)}
    except ValueError as exc:
        raise ImageError(f"the tar archive is damaged at byte {at}: no pax records", reason="CorruptImage") from exc


def _cut(at: int) -> ImageError:
    return ImageError(f"the image is cut off: its tar archive ends at byte {at}", reason="TruncatedImage")
