"""Which addresses sources are fetched from."""

import ipaddress
import socket

import pytest

from dvcr.errors import SourceError
from importer.sources.addresses import AddressGuard, Reach, reach

PUBLIC = ("8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1")
PRIVATE = (
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1",
    "64:ff9b:1::a00:1", "2002:a00:1::1",
)  # fmt: skip
LOCAL = (
    "127.0.0.1", "127.64.0.9", "::1", "0.0.0.0", "0.1.2.3", "::", "169.254.169.254", "fe80::1", "224.0.0.1", "ff02::1",
    "255.255.255.255", "240.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::1", "2002:a9fe:a9fe::", "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "::ffff:168.63.129.16",
)  # fmt: skip


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *((address, Reach.PUBLIC) for address in PUBLIC),
        *((address, Reach.PRIVATE) for address in PRIVATE),
        *((address, Reach.LOCAL) for address in LOCAL),
    ],
)
def test_reach(address: str, expected: Reach) -> None:
    assert reach(ipaddress.ip_address(address)) is expected


@pytest.mark.parametrize(
    ("setting", "allowed"), [("public", PUBLIC), ("private", PUBLIC + PRIVATE), ("any", PUBLIC + PRIVATE + LOCAL)]
)
def test_a_guard_allows_up_to_its_setting(setting: str, allowed: tuple[str, ...]) -> None:
    guard = AddressGuard(setting)
    assert [address for address in PUBLIC + PRIVATE + LOCAL if guard.allows(address)] == list(allowed)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "[::1]", "localhost", "LOCALHOST.", "a.localhost"],
)
def test_every_spelling_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises(SourceError, match=r"importer\.source_addresses") as caught:
        AddressGuard("private").check_host(host)
    assert caught.value.reason == "SourceAddressRefused"
    AddressGuard("any").check_host(host)


@pytest.mark.parametrize("host", ["example.com", "10.0.0.1", "localhost.example.com", "7f.example"])
def test_other_hosts_are_left_to_their_addresses(host: str) -> None:
    AddressGuard("private").check_host(host)


def test_only_the_allowed_addresses_of_a_name_are_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("127.0.0.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    assert AddressGuard("private").resolve("mixed.example", 80) == ["10.0.0.1"]
    with pytest.raises(SourceError, match=r"mixed.example is at 127.0.0.1, 10.0.0.1, where"):
        AddressGuard("public").resolve("mixed.example", 80)
