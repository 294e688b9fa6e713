"""What of a guest's network can be known without one."""

import ipaddress
import struct
from pathlib import Path

import pytest

from controller.launcher.frames import MAX_VERDICTS, Gate
from controller.launcher.passt import passt_arguments, resolvers
from dvcr.config import LauncherSettings

DENIED = LauncherSettings().guest_denied_networks


def frame(kind: int, destination: str = "10.0.0.1") -> memoryview:
    packet = bytes(16) + ipaddress.IPv4Address(destination).packed
    data = bytes(12) + struct.pack("!H", kind) + packet
    return memoryview(struct.pack("!I", len(data)) + data)


@pytest.mark.parametrize("destination", ["127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "169.254.169.254"])
def test_denied_destinations(destination: str) -> None:
    assert not Gate(DENIED).passes(frame(0x0800, destination))


@pytest.mark.parametrize("destination", ["10.0.2.2", "192.0.2.7", "255.255.255.255", "128.0.0.1", "126.255.255.255"])
def test_allowed_destinations(destination: str) -> None:
    assert Gate(DENIED).passes(frame(0x0800, destination))


def test_a_name_server_in_a_denied_network_is_reached() -> None:
    gate = Gate(DENIED, ["169.254.20.10"])
    assert gate.passes(frame(0x0800, "169.254.20.10"))
    assert not gate.passes(frame(0x0800, "169.254.20.11"))


def test_only_arp_and_ipv4_pass() -> None:
    gate = Gate(())
    assert gate.passes(frame(0x0806))
    for kind in (0x86DD, 0x8100, 0x88A8, 0x0000):
        assert not gate.passes(frame(kind))
    assert not gate.passes(memoryview(b"\0\0\0\x0e" + bytes(12) + b"\x08\x00"))
    assert not gate.passes(memoryview(b"\0\0\0\0"))


def test_a_guest_that_tries_all_addresses_is_judged_right_to_the_end() -> None:
    gate = Gate(DENIED)
    for number in range(MAX_VERDICTS + 10):
        assert gate.passes(frame(0x0800, str(ipaddress.IPv4Address("10.0.0.0") + number)))
    assert not gate.passes(frame(0x0800, "127.0.0.1"))


def test_the_command_line_of_passt() -> None:
    arguments = passt_arguments("127.64.0.2", {22: 22}, {}, name_servers=["192.0.2.53"], reaches_loopback=False)
    line = " ".join(arguments)
    assert "--no-map-gw" in arguments
    assert "--tcp-ports 127.64.0.2/22 --udp-ports none" in line
    assert "--dns 192.0.2.53" in line
    assert "--address 10.0.2.15 --netmask 24 --gateway 10.0.2.2" in line

    open_line = passt_arguments("127.64.0.2", {}, {53: 53}, name_servers=[], reaches_loopback=True)
    assert "--no-map-gw" not in open_line
    assert "--dns none" in " ".join(open_line)


def test_name_servers_on_loopback_are_replaced_by_those_behind_them(tmp_path: Path) -> None:
    stub, real = tmp_path / "resolv.conf", tmp_path / "upstream.conf"
    stub.write_text("# comment\nnameserver 127.0.0.53\nnameserver ::1\nsearch example.com\n")
    real.write_text("nameserver\nnameserver 192.0.2.1\nnameserver fd00::1\nnameserver 192.0.2.2 # second\n")

    assert resolvers((stub, real)) == ["192.0.2.1", "192.0.2.2"]
    assert resolvers((stub,)) == []
    assert resolvers((tmp_path / "missing", real)) == ["192.0.2.1", "192.0.2.2"]
