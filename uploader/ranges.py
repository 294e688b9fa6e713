"""Which bytes of the file a request brings: `Content-Range`, as `curl -C` sends it (RFC 9110, section 14.4)."""

import re
from dataclasses import dataclass

from uploader.tickets import RefusedError

_RANGE = re.compile(r"bytes[ =](\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


@dataclass(frozen=True)
class Span:
    """What the body of a request is."""

    start: int
    """Offset of its first byte in the file."""
    length_bytes: int | None
    """Of the body; None: until it ends."""
    total_bytes: int | None
    """Of the file, where the client says so."""
    last: bool
    """Whether the file ends with the body."""


def span_of(content_range: str | None, content_length: int | None) -> Span:
    """What the headers of a PUT say; RefusedError 400 where they contradict each other."""
    if content_range is None:
        return Span(0, content_length, content_length, last=True)
    match = _RANGE.fullmatch(content_range.strip())
    if match is None:
        raise _bad(content_range, "write: bytes FIRST-LAST/TOTAL")
    start, end = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if content_length is None and end < start:
        # What curl sends for `-C OFFSET -T -`: it knows where it begins, and neither the end nor the total.
        return Span(start, None, None, last=True)
    if end < start or (total is not None and end >= total):
        raise _bad(content_range, "its end is before its beginning, or after the total")
    length = end - start + 1
    if content_length not in (None, length):
        raise _bad(content_range, f"these are {length} bytes, Content-Length says {content_length}")
    return Span(start, length, total, last=total is not None and end + 1 == total)


def _bad(content_range: str, why: str) -> RefusedError:
    return RefusedError(400, f"Content-Range {content_range[:100]!r} is wrong: {why}")
