"""What the headers of an answer say, where they can be believed: any server may send anything."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests

from importer.sources.request import BrokenError

_TRANSIENT = (408, 425, 429)
# No more digits than a length can have, and only those of ASCII: `int` takes others, and refuses thousands of them.
_NUMBER = "[0-9]{1,19}"
_CONTENT_RANGE = re.compile(rf"bytes (?:({_NUMBER})-{_NUMBER}|\*)/({_NUMBER}|\*)")


class NoRangeError(BrokenError):
    """The server answers, but not with the range that was asked for: asking again will not help."""


def check_busy(response: requests.Response) -> None:
    """BrokenError where the server cannot answer now, and may later."""
    status = response.status_code
    if status >= 500 or status in _TRANSIENT:
        raise BrokenError(f"the server answers {status} {response.reason}", after_s=_retry_after_s(response))


def validators(response: requests.Response) -> tuple[str, str]:
    """ETag and Last-Modified; empty where there is none."""
    return response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")


def content_length(response: requests.Response) -> int | None:
    """The length of the body, where it is told."""
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(_NUMBER, text) and "Transfer-Encoding" not in response.headers else None


def content_range(response: requests.Response) -> tuple[int, int | None]:
    """Where the body begins in the file, and how long the file is, where that is told; NoRangeError without either."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None:
        raise NoRangeError(f"the server answers {response.status_code} without a usable Content-Range")
    return int(match[1] or 0), None if match[2] == "*" else int(match[2])


def _retry_after_s(response: requests.Response) -> float:
    """After how many seconds the server wants to be asked again (RFC 9110, 10.2.3); 0 where it does not say."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(_NUMBER, text):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
        return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return 0.0
