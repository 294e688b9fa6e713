"""Ranges of downloads (RFC 9110, section 14) and of upload chunks (distribution-spec, "Pushing a blob in chunks")."""

import re
from dataclasses import dataclass

from dvcr.http.errors import BadRequestError, RangeError

_ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.IGNORECASE)
_CHUNK = re.compile(r"(\d{1,18})-(\d{1,18})")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `start` on."""

    start: int
    length: int

    def content_range(self, size_bytes: int) -> str:
        """The Content-Range header of an answer with this range."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size_bytes}"


def parse_range(header: str | None, size_bytes: int) -> ByteRange | None:
    """The range to send of a blob of `size_bytes`, or None for all of it.

    What is no valid single range is ignored, as the RFC allows for several ranges and demands for malformed ones.
    Raises RangeError if the range lies outside the blob.
    """
    match = _ONE_RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size_bytes)
        start = size_bytes - length
    else:
        start = int(first)
        if last and int(last) < start:
            return None
        length = min(int(last) + 1 if last else size_bytes, size_bytes) - start
    if length <= 0:
        raise RangeError(
            f"range {header!r} lies outside the blob's {size_bytes} bytes", {"Content-Range": f"bytes */{size_bytes}"}
        )
    return ByteRange(start, length)


def parse_chunk_range(header: str) -> ByteRange:
    """The range of an upload chunk, `<start>-<end>` with both ends included; raises BadRequestError."""
    match = _CHUNK.fullmatch(header)
    if not match or int(match[2]) < int(match[1]):
        raise BadRequestError(f"Content-Range of a chunk is <start>-<end>, not {header!r}")
    return ByteRange(int(match[1]), int(match[2]) - int(match[1]) + 1)
