"""The guest's network over the real passt, with a guest that a test writes packet by packet."""

import asyncio
import os
import select
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from controller.launcher.network import GuestNetwork
from controller.launcher.spec import STATUS_PORT, NetworkStatus
from dvcr.config import LauncherSettings
from dvcr.errors import ConfigError
from tests.support.coroutines import in_loop
from tests.support.packets import ACK, GATEWAY, GUEST, MAC, SYN, SYN_ACK, Card

WAIT_S = 30.0
_addresses = (f"127.98.{os.getpid() % 250}.{n}" for n in count(1))


@asynccontextmanager
async def guest_network(**changes: Any) -> AsyncIterator[tuple[GuestNetwork, Card, str]]:
    """A started network, its guest's card, and the machine's address."""
    address = next(_addresses)
    settings = LauncherSettings(
        **({"network": "passt", "guest_tcp_ports": "22,8000-8002", "guest_udp_ports": "53"} | changes)
    )
    network = GuestNetwork(settings, address, MAC)
    try:
        await network.start()
        card = Card(network.qemu_fds[0])
        network.handed_over()
        with card:
            yield network, card, address
    finally:
        await network.close()


@contextmanager
def listener(address: str) -> Iterator[socket.socket]:
    with socket.create_server((address, 0)) as server:
        yield server


def own_address() -> str:
    """An address of this machine that is not on loopback."""
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


def passt_pids() -> list[int]:
    """Children of this process that are passt."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().startswith("passt")]


def trouble(network: GuestNetwork) -> str:
    assert network.status is not None
    return network.status.trouble


async def until(condition: Any, what: str) -> None:
    try:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never {what}") from None


async def answers(card: Card, address: str, port: int) -> None:
    """A client outside reaches a server in the guest at that port, and hears its word."""
    reached = asyncio.create_task(asyncio.open_connection(address, port))
    asked = await asyncio.to_thread(card.receive_tcp, port)
    assert asked.flags == SYN
    assert asked.destination == (GUEST, port)
    card.send_tcp(asked.source, port, SYN_ACK, sequence=100, acknowledged=asked.sequence + 1)
    _, writer = await reached
    writer.write(b"hello")
    while not (packet := await asyncio.to_thread(card.receive_tcp, port)).data:
        pass
    assert packet.data == b"hello"
    writer.close()


@in_loop
async def test_the_guests_ports_answer_at_the_machines_address_and_the_launchers_do_not() -> None:
    async with guest_network(guest_tcp_ports=f"8000,{STATUS_PORT}") as (network, card, address):
        await answers(card, address, 8000)
        with socket.create_server((address, STATUS_PORT)):
            assert network.status == NetworkStatus(kind="passt")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(address, 8003)


@in_loop
async def test_a_guest_reaches_the_network_but_not_loopback_by_any_address() -> None:
    async with guest_network() as (_, card, address):
        with listener("127.0.0.1") as loopback, listener(address) as neighbour, listener(own_address()) as outside:
            port = loopback.getsockname()[1]
            for number, destination in enumerate(("127.0.0.1", "127.1.2.3", "0.0.0.0")):
                card.send_tcp((destination, port), 40000 + number, SYN)
            card.send_tcp(neighbour.getsockname(), 40010, SYN)
            # Refused, or told unreachable: as on a machine where nothing listens.
            card.send_tcp((GATEWAY, port), 40011, SYN)
            # What was sent before this has been dealt with when this is answered.
            assert card.connects(outside.getsockname(), 40020)
            assert select.select([loopback, neighbour], [], [], 0) == ([], [], [])
            assert select.select([outside], [], [], 10)[0]


@in_loop
async def test_datagrams_to_loopback_are_dropped_too() -> None:
    async with guest_network() as (_, card, _address):
        with socket.socket(type=socket.SOCK_DGRAM) as loopback, socket.socket(type=socket.SOCK_DGRAM) as outside:
            loopback.bind(("127.0.0.1", 0))
            outside.bind((own_address(), 0))
            outside.settimeout(WAIT_S)
            loopback.setblocking(False)
            card.send_udp(loopback.getsockname(), 5000, b"denied")
            card.send_udp((GATEWAY, loopback.getsockname()[1]), 5000, b"denied")
            card.send_udp(outside.getsockname(), 5000, b"allowed")
            assert outside.recv(100) == b"allowed"
            with pytest.raises(BlockingIOError):
                loopback.recv(100)


@in_loop
async def test_a_datagram_to_the_machines_address_reaches_the_guest() -> None:
    async with guest_network() as (_, card, address):
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.sendto(b"question", (address, 53))
            while b"question" not in (frame := await asyncio.to_thread(card.receive)):
                pass
            assert frame[36:38] == (53).to_bytes(2)  # the destination port


def test_wrong_ports_are_refused_by_the_settings_name() -> None:
    for changes, told in (({"guest_tcp_ports": "9-8"}, "guest_tcp_ports"), ({"guest_udp_ports": "0"}, "guest_udp")):
        with pytest.raises(ConfigError, match=told):
            GuestNetwork(LauncherSettings.model_validate(changes), next(_addresses), MAC)


@in_loop
async def test_a_setting_opens_loopback_through_the_gateway() -> None:
    async with guest_network(guest_reaches_loopback=True) as (_, card, _address):
        with listener("127.0.0.1") as loopback:
            assert card.connects((GATEWAY, loopback.getsockname()[1]), 40000)


@in_loop
async def test_a_passt_that_dies_is_told_and_replaced_and_the_guests_ports_answer_again() -> None:
    async with guest_network() as (network, card, address):
        (pid,) = passt_pids()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: "signal 9" in trouble(network), "said that passt was killed")
        card.send_tcp((own_address(), 9), 40000, ACK)  # into the void: nobody is there

        await until(lambda: trouble(network) == "", "well again")
        assert passt_pids() != [pid]
        await answers(card, address, 8001)


@in_loop
async def test_a_machine_that_moves_takes_its_address_along() -> None:
    async with guest_network() as (former, _, address):
        settings = LauncherSettings(network="passt", guest_tcp_ports="22,8000-8002", guest_udp_ports="53")
        successor = GuestNetwork(settings, address, MAC, inherits=True)
        await successor.start()
        with Card(successor.qemu_fds[0]) as card:
            assert address in trouble(successor)
            await former.close()
            await until(lambda: trouble(successor) == "", "at the address")
            await answers(card, address, 8001)
            await successor.close()


@in_loop
async def test_passt_ends_with_the_network() -> None:
    async with guest_network() as (network, card, _):
        (pid,) = passt_pids()
        end = os.pidfd_open(pid)
        await network.close()
        assert select.select([end], [], [], WAIT_S)[0]
        with pytest.raises((EOFError, ConnectionError)):
            card.receive()
    os.close(end)


@in_loop
async def test_passt_runs_without_privileges() -> None:
    async with guest_network():
        (pid,) = passt_pids()
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert "0" not in status["Uid"].split()
        assert int(status["CapEff"], 16) & ~(1 << 10) == 0  # CAP_NET_BIND_SERVICE, for the low ports
        assert status["Seccomp"] == "2"


@in_loop
async def test_without_passt_qemu_stands_in_unless_the_setting_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    address = next(_addresses)
    network = GuestNetwork(LauncherSettings(guest_tcp_ports="2222,8000", guest_udp_ports=""), address, MAC)
    with socket.create_server((address, 8000)):
        await network.start()
    assert network.status == NetworkStatus(kind="user")
    assert network.netdev.startswith("user,id=network,net=10.0.2.0/24,")
    assert network.netdev.endswith(f"hostfwd=tcp:{address}:2222-:2222")
    assert network.qemu_fds == ()

    with pytest.raises(Exception, match="not installed"):
        await GuestNetwork(LauncherSettings(network="passt"), address, MAC).start()


@in_loop
async def test_what_passt_says_when_it_cannot_start() -> None:
    address = next(_addresses)
    with socket.create_server((address, 8000)):
        network = GuestNetwork(LauncherSettings(network="passt", guest_tcp_ports="8000"), address, MAC)
        with pytest.raises(Exception, match="Failed to bind any port"):
            await network.start()
        await network.close()
