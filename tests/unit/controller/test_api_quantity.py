import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.quantity import format_bytes, human_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("1Ki", 1024), ("10Gi", 10 * 2**30), ("1.5G", 1_500_000_000), ("1e3", 1000), ("0.5", 1), (7, 7)],
)
def test_quantities_are_read(text: str | int, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "Gi", "1gi", "1 Gi", "-1", "1GiB", "1e", "NaN", "1e999"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 10Gi"):
        parse_bytes(text)


@given(st.integers(min_value=0, max_value=2**63))
def test_what_is_written_is_read_back(size_bytes: int) -> None:
    assert parse_bytes(format_bytes(size_bytes)) == size_bytes


def test_sizes_for_people_are_short() -> None:
    assert [human_bytes(n) for n in (512, 1536, 10 * 2**30)] == ["512", "1.5Ki", "10Gi"]
