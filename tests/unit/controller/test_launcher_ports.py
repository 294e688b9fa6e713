"""Sets of ports, and what becomes of them at the machine's address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.launcher.ports import LAST_PORT, forwarded, parse_ports, write_ranges
from dvcr.config import LauncherSettings

PORTS = st.frozensets(st.integers(1, LAST_PORT), max_size=50)


@pytest.mark.parametrize(
    ("text", "ports"), [("", set()), ("22", {22}), ("22, 80-82", {22, 80, 81, 82}), ("1-65535", set(range(1, 65536)))]
)
def test_what_settings_write(text: str, ports: set[int]) -> None:
    assert parse_ports(text) == ports


@pytest.mark.parametrize("text", ["0", "65536", "9-8", "ssh", "1-2-3", "-5", "22;80"])
def test_what_is_no_set_of_ports_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_ports(text)


def test_the_defaults_are_sets_of_ports() -> None:
    assert {22, 80, 443, 3389, 5432, 8080} <= parse_ports(LauncherSettings().guest_tcp_ports)
    assert 53 in parse_ports(LauncherSettings().guest_udp_ports)


def test_low_ports_move_up_where_they_cannot_be_bound_and_the_launchers_stay_its_own() -> None:
    assert forwarded({22, 80, 8080, 8081}, {8080}, first_bindable=1024) == {8081: 8081, 62022: 22, 62080: 80}
    assert forwarded({22, 80, 8080}, {8080}, first_bindable=80) == {80: 80, 62022: 22}
    assert forwarded({22, 62022}, (), first_bindable=1024) == {62022: 22}


def test_neighbours_are_written_as_ranges() -> None:
    assert write_ranges({22: 22, 23: 23, 25: 25}) == ["22-23", "25"]
    assert write_ranges({8000: 8000, 62022: 22, 62023: 23, 62025: 25}) == ["8000", "62022-62023:22-23", "62025:25"]
    assert write_ranges({}) == []


@given(wanted=PORTS, reserved=PORTS, first=st.integers(1, 2000))
def test_ranges_say_the_same_as_the_pairs(wanted: frozenset[int], reserved: frozenset[int], first: int) -> None:
    pairs = forwarded(wanted, reserved, first_bindable=first)
    told: dict[int, int] = {}
    for text in write_ranges(pairs):
        outer, _, inner = text.partition(":")
        for outside, inside in zip(sorted(parse_ports(outer)), sorted(parse_ports(inner or outer)), strict=True):
            assert outside not in told
            told[outside] = inside
    assert told == pairs
    assert not pairs.keys() & reserved
    assert set(pairs.values()) <= wanted
    assert len(set(pairs.values())) == len(pairs)
