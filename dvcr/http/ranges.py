"""Ranges of downloads (RFC 9110, section 14) and of upload chunks (distribution-spec, "Pushing a blob in chunks")."""

import re
from dataclasses import dataclass

from dvcr.http.errors import BadRequestError, RangeError

_RANGES = re.compile(r"bytes[ \t]*=(.*)", re.IGNORECASE)
_RANGE = re.compile(r"(\d{0,999})[ \t]*-[ \t]*(\d{0,999})", re.ASCII)
_CHUNK = re.compile(r"(\d{1,18})-(\d{1,18})", re.ASCII)

# Readers of lazily pulled images ask for dozens of ranges at once; past this it is no reader.
MAX_RANGES = 256


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `start` on."""

    start: int
    length: int

    def content_range(self, size_bytes: int) -> str:
        """The Content-Range header of an answer with this range."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size_bytes}"


def parse_ranges(header: str | None, size_bytes: int) -> tuple[ByteRange, ...]:
    """The parts to send of a blob of `size_bytes`; none stands for the whole blob, without ranges.

    They ascend and do not touch: what overlaps or adjoins is joined, so their sum never exceeds the blob. Another unit
    and what is not of the form of ranges is ignored, as if there were no header. Raises RangeError if no range lies
    inside the blob or one ends before it begins, BadRequestError past MAX_RANGES.
    """
    unit = _RANGES.fullmatch(header) if header else None
    matches = [_RANGE.fullmatch(text) for part in unit[1].split(",") if (text := part.strip(" \t"))] if unit else []
    if not matches or any(match is None or match.groups() == ("", "") for match in matches):
        return ()
    refused = {"Content-Range": f"bytes */{size_bytes}"}
    if len(matches) > MAX_RANGES:
        # Readers of lazily pulled images ask for single ranges after a 400, and give up after a 416.
        raise BadRequestError(f"{len(matches)} ranges in one request; the limit is {MAX_RANGES}")
    spans: list[tuple[int, int]] = []
    for first, last in (match.groups() for match in matches if match):
        begin = int(first) if first else max(size_bytes - int(last), 0)
        end = min(int(last) + 1, size_bytes) if first and last else size_bytes
        if first and last and int(last) < begin:
            raise RangeError(f"range {first}-{last} ends before it begins", refused)
        if begin < end:
            spans.append((begin, end))
    if not spans:
        raise RangeError(f"range {header!r} lies outside the blob's {size_bytes} bytes", refused)
    return _joined(spans)


def _joined(spans: list[tuple[int, int]]) -> tuple[ByteRange, ...]:
    spans.sort()
    joined = [spans[0]]
    for begin, end in spans[1:]:
        if begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return tuple(ByteRange(begin, end - begin) for begin, end in joined)


def parse_chunk_range(header: str) -> ByteRange:
    """The range of an upload chunk, `<start>-<end>` with both ends included; raises BadRequestError."""
    match = _CHUNK.fullmatch(header)
    if not match or int(match[2]) < int(match[1]):
        raise BadRequestError(f"Content-Range of a chunk is <start>-<end>, not {header!r}")
    return ByteRange(int(match[1]), int(match[2]) - int(match[1]) + 1)
