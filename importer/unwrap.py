"""From the bytes as fetched to the bytes of the image: out of a compressed file, out of an archive."""

from collections.abc import Iterator
from contextlib import contextmanager

from converter.inspect import HEAD_BYTES
from converter.ova import disk_in_tar, is_tar
from converter.partitions import has_partitions
from converter.signatures import is_iso
from converter.source import ByteSource
from converter.wrappers import UnpackingLimits, wrapper_of
from dvcr.config import ImporterSettings
from dvcr.errors import ImageError
from importer.sources.source import ImportSource
from importer.unpacked import UnpackedSource


@contextmanager
def unwrapped(source: ImportSource, settings: ImporterSettings) -> Iterator[ByteSource]:
    """The image in `source`: the source itself, or what is in its compressed file (gz, xz, zst, bz2), its tar, or both.

    One compressed file and one archive in it at most: ImageError `NestedCompressionRefused` for more. The bytes decide,
    not a name. What was made for unpacking is gone at the end. `finish` of what is given also proves that the wrappers
    were whole, and finishes `source`. Raises what `unpack` and `TarDisk` raise.
    """
    head = source.read_at(0, HEAD_BYTES)
    wrapper = wrapper_of(head)
    if wrapper is None:
        yield _out_of_tar(source, head)
        return
    if is_iso(head) or has_partitions(head):
        raise ImageError(
            f"the image can be read as a {wrapper} file and as a disk; it was made to deceive. Unpack it yourself",
            reason="AmbiguousFormat",
        )
    limits = UnpackingLimits(settings.max_unpacked_bytes, settings.max_unpacking_ratio)
    unpacked = UnpackedSource(source, wrapper, limits, settings.scratch_dir)
    try:
        head = unpacked.read_at(0, HEAD_BYTES)
        _refuse_wrapper(head, f"a {wrapper} file")
        yield _out_of_tar(unpacked, head)
    finally:
        unpacked.close()


def _out_of_tar(source: ByteSource, head: bytes) -> ByteSource:
    if not is_tar(head):
        return source
    if is_iso(head) or has_partitions(head):
        raise ImageError(
            "the image can be read as a tar archive and as a disk; it was made to deceive. Unpack it yourself",
            reason="AmbiguousFormat",
        )
    disk = disk_in_tar(source)
    head = disk.read_at(0, HEAD_BYTES)
    _refuse_wrapper(head, "a tar archive")
    if is_tar(head):
        raise _nested("a tar archive", "a tar archive")
    return disk


def _refuse_wrapper(head: bytes, outer: str) -> None:
    wrapper = wrapper_of(head)
    if wrapper is not None:
        raise _nested(f"a {wrapper} file", outer)


def _nested(inner: str, outer: str) -> ImageError:
    return ImageError(
        f"there is {inner} in {outer}; a disk may be compressed once and archived once. Unpack the outer one first",
        reason="NestedCompressionRefused",
    )
