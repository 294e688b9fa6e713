"""Headers that a user gives for an HTTP source, as lines of text."""

import re

from dvcr.errors import ResourceError

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS = frozenset(
    ("accept-encoding", "connection", "content-length", "host", "if-range", "range", "te", "transfer-encoding")
)


def parse_headers(lines: str) -> dict[str, str]:
    """Name to value of lines `Name: value`; ResourceError for what is none, or is the download's own to say.

    Values are not repeated in messages: they are secret.
    """
    headers: dict[str, str] = {}
    for number, line in enumerate(lines.splitlines(), start=1):
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ResourceError(f"line {number} of the headers is not `Name: value`", reason="InvalidHeaders")
        if name.lower() in _OURS:
            raise ResourceError(f"the header {name} cannot be set: the download sets it", reason="InvalidHeaders")
        headers[name] = value.strip()
    return headers
