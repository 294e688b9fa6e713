"""Compressed wrappers around an image: gzip, xz, zstd and bzip2, told by their bytes and unpacked in bounded steps."""

import bz2
import lzma
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn, Protocol

from converter.inflate import GZIP, InflateError, decompressor
from converter.source import ByteSource
from dvcr.errors import ImageError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 2**20
_READ_BYTES = 4 * 2**20
# Small after each beginning, since what a member leaves over is copied: files of a million members exist.
_LEAST_FEED_BYTES, _MOST_FEED_BYTES = 4 * 2**10, 2**18
# `xz -9` needs 65 MiB, `zstd --ultra -22` 128 MiB; what needs more was made with a window of its own choice.
_XZ_MEMORY_BYTES = 128 * 2**20
_ZSTD_WINDOW_LOG = 27
# What unpacks to less than this is harmless at any ratio.
_FREE_BYTES = 256 * 2**20
_MAGIC_BYTES = 6


class Wrapper(StrEnum):
    """Wrappers that are unpacked, by the suffix that their files usually have."""

    GZIP = "gz"
    XZ = "xz"
    ZSTD = "zst"
    BZIP2 = "bz2"


# zstd: also a skippable frame, with which pzstd and tools for seeking begin (RFC 8878, 3.1.2).
_MAGICS = {
    Wrapper.GZIP: re.compile(rb"\x1f\x8b\x08[\x00-\x1f]", re.DOTALL),
    Wrapper.XZ: re.compile(rb"\xfd7zXZ\0"),
    Wrapper.ZSTD: re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    Wrapper.BZIP2: re.compile(rb"BZh[1-9](1A|\x17r)"),
}


@dataclass(frozen=True, slots=True)
class UnpackingLimits:
    """Where unpacking stops."""

    max_bytes: int
    """Unpacked bytes."""
    max_ratio: int
    """Unpacked bytes for each compressed byte that was read; asked beyond 256 MiB."""


def wrapper_of(head: bytes) -> Wrapper | None:
    """The wrapper whose file begins with `head`."""
    return next((wrapper for wrapper, magic in _MAGICS.items() if magic.match(head)), None)


def unpack(source: ByteSource, wrapper: Wrapper, limits: UnpackingLimits) -> Iterator[bytes]:
    """What `source` unpacks to, in pieces of at most 1 MiB; releases what it has read.

    Members, streams and frames that follow each other are one file, as for gzip, xz, zstd and bzip2 themselves; and as
    for those, zeroes may pad a gzip file, and in fours an xz file. Raises ImageError: `TruncatedImage`, `CorruptImage`
    (also for anything else behind the end), `DecompressionBomb`, `WindowTooLarge`, and what reading raises.
    """
    packed = _Packed(source, wrapper)
    unpacked_bytes = 0
    while packed.at_member():
        for piece in _member(packed, wrapper):
            unpacked_bytes += len(piece)
            _check_limits(unpacked_bytes, packed.read_bytes, wrapper, limits)
            yield piece


def _check_limits(unpacked_bytes: int, packed_bytes: int, wrapper: Wrapper, limits: UnpackingLimits) -> None:
    if unpacked_bytes > limits.max_bytes:
        raise ImageError(
            f"the {wrapper} file unpacks to more than {limits.max_bytes} bytes; if it is right, raise "
            "importer.max_unpacked_bytes",
            reason="DecompressionBomb",
        )
    if unpacked_bytes > _FREE_BYTES + limits.max_ratio * packed_bytes:
        raise ImageError(
            f"the {wrapper} file unpacks to more than {limits.max_ratio} times its size; convert the disk to a "
            "compressed qcow2, or raise importer.max_unpacking_ratio",
            reason="DecompressionBomb",
        )


class _Packed:
    """The compressed bytes, front to back."""

    def __init__(self, source: ByteSource, wrapper: Wrapper) -> None:
        self.read_bytes = 0
        self._source = source
        self._wrapper = wrapper
        self._data = b""
        self._at = 0
        self._feed_bytes = _LEAST_FEED_BYTES

    def next(self) -> bytes:
        """Some more; b"" at the end."""
        self._fill(1)
        piece = self._data[self._at : self._at + self._feed_bytes]
        self._at += len(piece)
        self._feed_bytes = min(2 * self._feed_bytes, _MOST_FEED_BYTES)
        return piece

    def put_back(self, length_bytes: int) -> None:
        """The end of the last piece is not needed yet; what follows is a new member."""
        self._at -= length_bytes
        self._feed_bytes = _LEAST_FEED_BYTES

    def at_member(self) -> bool:
        """Whether another member follows rather than the end; passes over padding."""
        padding = 0
        while self._fill(1) and self._data[self._at] == 0 and self._padded():
            rest = len(self._data) - self._at
            zeroes = rest - len(self._data[self._at :].lstrip(b"\0"))
            padding += zeroes
            self._at += zeroes
        if self._wrapper is Wrapper.XZ and padding % 4:
            self._refuse("padding that is no multiple of four bytes")
        if not self._fill(1):
            return False
        self._fill(_MAGIC_BYTES)
        after_padding = padding and self._wrapper is Wrapper.GZIP  # gzip takes nothing after its padding
        if after_padding or not _MAGICS[self._wrapper].match(self._data, self._at):
            self._refuse("something else")
        return True

    def _padded(self) -> bool:
        return self._wrapper in (Wrapper.GZIP, Wrapper.XZ)

    def _fill(self, length_bytes: int) -> bool:
        """Have that many bytes at hand; whether there are so many."""
        while len(self._data) - self._at < length_bytes:
            piece = self._source.read_at(self.read_bytes, _READ_BYTES)
            if not piece:
                return False
            self._data, self._at = self._data[self._at :] + piece, 0
            self.read_bytes += len(piece)
            self._source.release(self.read_bytes)
        return True

    def _refuse(self, what: str) -> NoReturn:
        raise ImageError(
            f"the {self._wrapper} file ends before byte {self.read_bytes - len(self._data) + self._at}, and {what} "
            "follows; cut it off, or pack the image again",
            reason="CorruptImage",
        )


def _member(packed: _Packed, wrapper: Wrapper) -> Iterator[bytes]:
    decoder = _DECODERS[wrapper]()
    while not decoder.eof:
        data = packed.next() if decoder.needs_input else b""
        if decoder.needs_input and not data:
            raise ImageError(
                f"the image is cut off: its {wrapper} file has no end; fetch or pack it again", reason="TruncatedImage"
            )
        try:
            piece = decoder.decompress(data, PIECE_BYTES)
        except (lzma.LZMAError, InflateError, zstd.ZstdError, OSError, ValueError, EOFError) as exc:
            if "emory" in str(exc):  # neither library tells it in another way
                raise ImageError(
                    f"the {wrapper} file needs too much memory to be unpacked ({exc}); pack it again without --long "
                    "or a larger dictionary",
                    reason="WindowTooLarge",
                ) from exc
            raise ImageError(
                f"the {wrapper} file is damaged ({exc}); fetch or pack it again", reason="CorruptImage"
            ) from exc
        if piece:
            yield piece
    packed.put_back(len(decoder.unused_data))


class _Decoder(Protocol):
    """What the decompressors of bz2, lzma and zstd are alike in."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decompressor behaving like the others."""

    def __init__(self) -> None:
        self._zlib = decompressor(GZIP)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(piece) < max_length
        return piece


_DECODERS: dict[Wrapper, Callable[[], _Decoder]] = {
    Wrapper.GZIP: _Gzip,
    Wrapper.XZ: lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES),
    Wrapper.ZSTD: lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}),
    Wrapper.BZIP2: bz2.BZ2Decompressor,
}
