from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvcr.http.errors import BadRequestError, RangeError
from dvcr.http.ranges import MAX_RANGES, ByteRange, parse_chunk_range, parse_ranges


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, []),
        ("bytes=0-0", [(0, 1)]),
        ("bytes=2-5", [(2, 4)]),
        ("bytes=2-", [(2, 8)]),
        ("bytes=2-99", [(2, 8)]),
        ("bytes=2-" + "9" * 500, [(2, 8)]),
        ("bytes=-3", [(7, 3)]),
        ("bytes=-99", [(0, 10)]),
        ("Bytes = 9-9", [(9, 1)]),
        ("bytes=0-1,4-5", [(0, 2), (4, 2)]),
        ("bytes=4-5 , 0-1", [(0, 2), (4, 2)]),
        ("bytes=,0-1,,-1,", [(0, 2), (9, 1)]),
        ("bytes=0-1,20-30", [(0, 2)]),
        ("bytes=0-4,2-6,7-7", [(0, 8)]),
        ("bytes=0-,0-,0-", [(0, 10)]),
        # What is no list of ranges is ignored.
        ("", []),
        ("bytes=", []),
        ("bytes=,", []),
        ("bytes=-", []),
        ("bytes=--1", []),
        ("bytes=a-b", []),
        ("bytes=0-1,x", []),
        ("bytes=1", []),
        ("bytes=1-2-3", []),
        ("bytes=٣-٤", []),
        ("bytes=0x1-0x2", []),
        ("bytes=+1-2", []),
        ("bytes", []),
        ("bytes 0-1", []),
        ("chapters=1-2", []),
        ("bytes=" + "9" * 8000 + "-", []),
    ],
)
def test_ranges_of_ten_bytes(header: str | None, expected: list[tuple[int, int]]) -> None:
    assert parse_ranges(header, 10) == tuple(ByteRange(*part) for part in expected)


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ("bytes=10-", 10),
        ("bytes=10-12,99-", 10),
        ("bytes=-0", 10),
        ("bytes=5-2", 10),
        ("bytes=0-1,5-2", 10),
        ("bytes=0-0", 0),
        ("bytes=-1", 0),
    ],
)
def test_ranges_that_cannot_be_sent(header: str, size: int) -> None:
    with pytest.raises(RangeError) as error:
        parse_ranges(header, size)
    assert error.value.headers == {"Content-Range": f"bytes */{size}"}


def test_too_many_ranges_are_no_request() -> None:
    with pytest.raises(BadRequestError, match="257 ranges in one request; the limit is 256"):
        parse_ranges("bytes=" + ",".join(["0-0"] * (MAX_RANGES + 1)), 10)


positions = st.integers(0, 60)
specs = st.one_of(
    st.tuples(positions, positions).map(lambda ends: f"{min(ends)}-{max(ends)}"),
    positions.map(lambda first: f"{first}-"),
    positions.map(lambda length: f"-{length}"),
)


@given(st.lists(specs, min_size=1, max_size=8), st.integers(0, 50))
def test_exactly_the_bytes_that_were_asked_for(parts: list[str], size_bytes: int) -> None:
    """The model: the set of positions that each range covers, one by one."""
    wanted: set[int] = set()
    for part in parts:
        first, _, last = part.partition("-")
        wanted |= {
            position
            for position in range(size_bytes)
            if (
                position >= size_bytes - int(last)
                if not first
                else int(first) <= position <= (int(last) if last else position)
            )
        }
    try:
        ranges = parse_ranges("bytes=" + ", ".join(parts), size_bytes)
    except RangeError:
        ranges = ()
    sent = [position for part in ranges for position in range(part.start, part.start + part.length)]
    assert sent == sorted(wanted)
    for before, after in pairwise(ranges):
        assert before.start + before.length < after.start, "ranges that touch are joined"


@given(st.text(alphabet="bytes=0129-, ;\t\x00é/", max_size=40), st.integers(0, 20))
def test_no_header_breaks_it(header: str, size_bytes: int) -> None:
    with suppress(RangeError):
        assert sum(part.length for part in parse_ranges(header, size_bytes)) <= size_bytes


def test_chunk_ranges_include_both_ends() -> None:
    assert parse_chunk_range("10-19") == ByteRange(10, 10)


@pytest.mark.parametrize(
    "header", ["", "5", "5-4", "bytes 0-4/5", "0-", "-4", "0-4/5", "٣-٤", "9" * 30 + "-" + "9" * 31]
)
def test_malformed_chunk_ranges(header: str) -> None:
    with pytest.raises(BadRequestError):
        parse_chunk_range(header)


@given(st.text(max_size=30))
def test_no_chunk_range_breaks_it(header: str) -> None:
    with suppress(BadRequestError):
        assert parse_chunk_range(header).length > 0
