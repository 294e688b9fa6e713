import pytest

from dvcr.http.errors import BadRequestError, RangeError
from dvcr.http.ranges import ByteRange, parse_chunk_range, parse_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", ByteRange(0, 1)),
        ("bytes=2-5", ByteRange(2, 4)),
        ("bytes=2-", ByteRange(2, 8)),
        ("bytes=2-99", ByteRange(2, 8)),
        ("bytes=-3", ByteRange(7, 3)),
        ("bytes=-99", ByteRange(0, 10)),
        ("Bytes = 9-9", ByteRange(9, 1)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes", None),
        ("chapters=1-2", None),
        ("bytes=0-1,4-5", None),
    ],
)
def test_ranges_of_ten_bytes(header: str | None, expected: ByteRange | None) -> None:
    assert parse_range(header, 10) == expected


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-0", 0), ("bytes=-1", 0)])
def test_ranges_outside_the_blob(header: str, size: int) -> None:
    with pytest.raises(RangeError) as error:
        parse_range(header, size)
    assert error.value.headers == {"Content-Range": f"bytes */{size}"}


def test_chunk_ranges_include_both_ends() -> None:
    assert parse_chunk_range("10-19") == ByteRange(10, 10)


@pytest.mark.parametrize("header", ["", "5", "5-4", "bytes 0-4/5", "0-", "-4", "0-4/5", "9" * 30 + "-" + "9" * 31])
def test_malformed_chunk_ranges(header: str) -> None:
    with pytest.raises(BadRequestError):
        parse_chunk_range(header)
