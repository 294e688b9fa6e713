"""Headers that a user gives for a source."""

import pytest

from dvcr.errors import ResourceError
from dvcr.jobs.headers import parse_headers


def test_lines_are_headers() -> None:
    assert parse_headers("X-A: 1\n\nX-B:  two: parts \r\n") == {"X-A": "1", "X-B": "two: parts"}
    assert parse_headers("") == {}


@pytest.mark.parametrize("lines", ["secret", "X A: secret", ": secret", "X-A: se\0cret"])
def test_what_is_no_header_is_refused_without_repeating_it(lines: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse_headers(lines)
    assert caught.value.message == "line 1 of the headers is not `Name: value`"


@pytest.mark.parametrize("name", ["Range", "if-range", "HOST", "Accept-Encoding", "Transfer-Encoding"])
def test_headers_of_the_download_itself_are_refused(name: str) -> None:
    with pytest.raises(ResourceError, match=name):
        parse_headers(f"{name}: x")
