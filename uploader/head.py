"""A look at the first megabytes of a file: what is certainly no image is refused before the rest is sent."""

from converter import signatures
from converter.inspect import inspect
from dvcr.errors import ImageError

HEAD_BYTES = 2 * 2**20

# What an archive or a compressed file holds is seen by the import, when all of it is here.
_WRAPPERS = (b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh", b"\x04\x22\x4d\x18", b"PK\x03\x04")
_TAR_AT = 257
_SMALLEST_HEAD_BYTES = 128 * 1024


def refuse_early(head: bytes, total_bytes: int | None, *, max_virtual_size_bytes: int) -> None:
    """Raise the ImageError that the import would raise in the end, if the file's first bytes prove it.

    `head` has HEAD_BYTES, or the whole file; without `total_bytes` nothing is concluded from the length.
    """
    whole = total_bytes == len(head)
    if not whole and len(head) < _SMALLEST_HEAD_BYTES:
        return
    if head.startswith(_WRAPPERS) or head[_TAR_AT : _TAR_AT + 5] == b"ustar":
        return
    if not whole and (looks_like := signatures.foreign(head)) is not None:
        # Only the end of a file could make a disk of it, a fixed VHD: not where it begins as something else.
        raise ImageError(f"this is no disk image: it looks like {looks_like}", reason="UnknownFormat")
    # A length that nothing but a limit of ours could contradict.
    length = max_virtual_size_bytes // 512 * 512 if total_bytes is None else total_bytes
    try:
        inspect(_Head(head, length), max_virtual_size_bytes=max_virtual_size_bytes)
    except _UndecidedError:
        return


class _UndecidedError(Exception):
    """Inspection wants bytes that are not here yet."""


class _Head:
    """A ByteSource of which only the beginning is here."""

    def __init__(self, head: bytes, total_bytes: int) -> None:
        self._head = head
        self.total_bytes = total_bytes

    def size_bytes(self) -> int:
        return self.total_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        end = min(offset_bytes + length_bytes, self.total_bytes)
        if end > len(self._head):
            raise _UndecidedError
        return self._head[offset_bytes:end]

    def release(self, offset_bytes: int) -> None:
        """Nothing is freed."""

    def finish(self) -> None:
        """Nothing is fetched."""
