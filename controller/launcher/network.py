"""The guest's network: passt where it can be had, else QEMU's own user networking.

The guest sees the same either way, on every node: address 10.0.2.15 from DHCP, gateway 10.0.2.2. Its ports answer at
the pod's address.
"""

import asyncio
import socket
from pathlib import Path
from typing import Literal

import structlog

from controller.launcher import passt
from controller.launcher.frames import FrameRelay, Gate
from controller.launcher.passt import NetworkError, Passt
from controller.launcher.ports import LOW_PORTS_END, forwarded, parse_ports
from controller.launcher.spec import LAUNCHER_PORTS, NetworkStatus
from dvcr.config import LauncherSettings
from dvcr.errors import ConfigError

# QEMU takes them on its command line, and one argument of that is at most 128 KiB long.
MAX_USER_PORTS = 2000
TAKE_OVER_INTERVAL_S = 0.2

log = structlog.get_logger(__name__)


class GuestNetwork:
    """The network of one machine, whose ports answer at `address`."""

    def __init__(self, settings: LauncherSettings, address: str, mac_address: str, *, inherits: bool = False) -> None:
        """`inherits`: another launcher has the address, and leaves it when the machine has come from there."""
        self._settings = settings
        self._inherits = inherits
        self.address = address
        self._mac_address = mac_address
        self._tcp = _ports(settings, "guest_tcp_ports")
        self._udp = _ports(settings, "guest_udp_ports")
        self._answering: dict[int, int] = {}
        self._relay: FrameRelay | None = None
        self._passt: Passt | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._kind: Literal["passt", "user"] | None = None
        self.netdev = ""
        """QEMU's argument, once started."""
        self._qemu_end: socket.socket | None = None

    @property
    def qemu_fds(self) -> tuple[int, ...]:
        """What QEMU inherits."""
        return (self._qemu_end.fileno(),) if self._qemu_end else ()

    @property
    def status(self) -> NetworkStatus | None:
        """None before it has started."""
        if self._kind is None:
            return None
        return NetworkStatus(kind=self._kind, trouble=self._passt.trouble if self._passt else "")

    def answers_at(self, port: int) -> int | None:
        """The TCP port at the machine's address that is this one of the guest's; None if it is not forwarded."""
        return next((outer for outer, inside in self._answering.items() if inside == port), None)

    async def start(self) -> None:
        """Make it ready for QEMU. NetworkError if the settings insist on passt and it does not work."""
        if self._settings.network == "user":
            self._use_qemu()
            return
        try:
            await self._start_passt()
        except NetworkError as exc:
            await self.close()
            if self._settings.network == "passt":
                raise
            log.warning("QEMU's user networking stands in: the guest reaches the launcher's loopback", why=exc.message)
            self._use_qemu()

    def handed_over(self) -> None:
        """QEMU has inherited its end; the other is to hear of QEMU's end."""
        if self._qemu_end is not None:
            self._qemu_end.close()
            self._qemu_end = None

    async def close(self) -> None:
        """End it. Idempotent."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._relay is not None:
            self._relay.close()
        if self._passt is not None:
            await self._passt.close()
        self.handed_over()
        self._relay = self._passt = self._keeping = None

    async def _start_passt(self) -> None:
        if not passt.is_installed():
            raise NetworkError("passt is not installed (package passt)")
        name_servers = passt.resolvers()
        ours, self._qemu_end = socket.socketpair()
        self._relay = FrameRelay(ours, Gate(self._settings.guest_denied_networks, name_servers))
        first = first_bindable(self.address)
        self._answering = forwarded(self._tcp, LAUNCHER_PORTS, first_bindable=first)
        arguments = passt.passt_arguments(
            self.address,
            self._answering,
            forwarded(self._udp, (), first_bindable=first),
            name_servers=name_servers,
            reaches_loopback=self._settings.guest_reaches_loopback,
        )
        self._passt = Passt(self._relay, self._mac_address, arguments)
        if self._inherits:
            self._passt.trouble = f"the machine's former launcher still has the address {self.address}"
            self._keeping = asyncio.create_task(self._take_over(self._passt))
        else:
            await self._passt.start()
            self._keeping = asyncio.create_task(self._passt.keep())
        self._kind = "passt"
        self.netdev = f"stream,id=network,server=off,addr.type=fd,addr.str={self._qemu_end.fileno()}"

    async def _take_over(self, network: Passt) -> None:
        """Start passt when the machine's former launcher has left the address, and keep it running."""
        port = next(iter(self._answering), None)
        while True:
            if port is None or _is_free("tcp", self.address, port):
                try:
                    await network.start()
                    break
                except NetworkError as exc:
                    log.warning("passt does not start yet", why=exc.message)
            await asyncio.sleep(TAKE_OVER_INTERVAL_S)
        network.trouble = ""
        await network.keep()

    def _use_qemu(self) -> None:
        # QEMU has no privilege to bind a low port, whatever the launcher has.
        first = unprivileged_start()
        pairs = [("tcp", port, inside) for port, inside in
                 forwarded(self._tcp, LAUNCHER_PORTS, first_bindable=first).items()]  # fmt: skip
        pairs += [("udp", port, inside) for port, inside in forwarded(self._udp, (), first_bindable=first).items()]
        free = [pair for pair in pairs[:MAX_USER_PORTS] if _is_free(pair[0], self.address, pair[1])]
        if len(free) < len(pairs):
            log.warning("not all ports of the guest can be forwarded", forwarded=len(free), wanted=len(pairs))
        self._answering = {port: inside for kind, port, inside in free if kind == "tcp"}
        network = f"{passt.GATEWAY.rpartition('.')[0]}.0/{passt.PREFIX_LENGTH}"
        self.netdev = f"user,id=network,net={network},host={passt.GATEWAY},dhcpstart={passt.GUEST_ADDRESS}"
        self.netdev += "".join(f",hostfwd={kind}:{self.address}:{port}-:{inside}" for kind, port, inside in free)
        self._kind = "user"


def _ports(settings: LauncherSettings, key: str) -> frozenset[int]:
    try:
        return parse_ports(getattr(settings, key))
    except ValueError as exc:
        raise ConfigError(f"launcher.{key}: {exc}") from exc


def unprivileged_start() -> int:
    """The first port that any process may bind."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except OSError:
        return LOW_PORTS_END


def first_bindable(address: str) -> int:
    """The first port that this process may bind."""
    with socket.socket() as probe:
        try:
            # Port 1, tcpmux, is in nobody's use.
            probe.bind((address, 1))
        except PermissionError:
            return unprivileged_start()
        except OSError:
            return 1
    return 1


def _is_free(kind: str, address: str, port: int) -> bool:
    with socket.socket(type=socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
