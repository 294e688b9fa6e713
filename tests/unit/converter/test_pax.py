"""Extended headers of tar archives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.pax import file_size, records


def record(key: bytes, value: bytes) -> bytes:
    rest = b" %b=%b\n" % (key, value)
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d%b" % (length, rest)


KEYS = st.binary(max_size=20).filter(lambda key: b"=" not in key)


@given(st.lists(st.tuples(KEYS, st.binary(max_size=200))))
def test_records_come_back_in_order(pairs: list[tuple[bytes, bytes]]) -> None:
    assert list(records(b"".join(record(key, value) for key, value in pairs))) == pairs


@pytest.mark.parametrize("data", [b"x", b"5", b" a=b\n", b"0 a=b\n", b"99 a=b\n", b"6 a=b\n1", b"+6 a=b\n", b"1" * 99])
def test_damage_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match="a pax header is damaged"):
        list(records(data))


@pytest.mark.parametrize(("text", "size"), [("12", 12), ("", 7), ("-1", 7), ("1" * 20, 7), ("²", 7)])
def test_the_size_of_a_file(text: str, size: int) -> None:
    assert file_size({"size": text} if text else {}, 7) == size
