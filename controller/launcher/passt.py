"""passt: the process that turns a guest's frames into sockets of the launcher's own network.

It is started with its end of a socket pair, drops its privileges by itself, and ends when the other end is closed, so
also with the launcher. One that ends by itself is started again; connections through it are lost, the guest's
configuration stays.
"""

import asyncio
import ipaddress
import shutil
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import structlog

from controller.launcher.argv import MTU_BYTES
from controller.launcher.frames import FrameRelay, read_frames
from controller.launcher.ports import write_ranges
from dvcr.errors import DvcrError

GUEST_ADDRESS, GATEWAY, PREFIX_LENGTH = "10.0.2.15", "10.0.2.2", 24
GATEWAY_MAC = "52:55:0a:00:02:02"
"""The same on every node, so that a guest that moves knows its gateway."""
READY_TIMEOUT_S = 20.0
RETRY_FIRST_S = 0.5
RETRY_LONGEST_S = 10.0
CALM_AFTER_S = 30.0
ERROR_LENGTH = 2000
RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))

log = structlog.get_logger(__name__)


class NetworkError(DvcrError):
    """The guest has no network; the message says why."""

    default_reason = "GuestNetworkFailed"
    default_retryable = True


def is_installed() -> bool:
    """Whether there is a passt on the PATH."""
    return shutil.which("passt") is not None


def resolvers(files: Iterable[Path] = RESOLVERS) -> list[str]:
    """IPv4 name servers that a guest can reach: of the first file that names one that is not on loopback."""
    for path in files:
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        words = [line.split() for line in lines]
        named = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
        found = [name for name in named if _is_ipv4(name) and not ipaddress.IPv4Address(name).is_loopback]
        if found:
            return found
    return []


def passt_arguments(
    address: str,
    tcp: dict[int, int],
    udp: dict[int, int],
    *,
    name_servers: Sequence[str],
    reaches_loopback: bool,
) -> list[str]:
    """The command line, but for the socket. Ports at `address` become the guest's as the pairs say."""
    out = ["passt", "--foreground", "--quiet", "--ipv4-only"]
    out += ["--address", GUEST_ADDRESS, "--netmask", str(PREFIX_LENGTH), "--gateway", GATEWAY]
    out += ["--mac-addr", GATEWAY_MAC, "--mtu", str(MTU_BYTES)]
    out += [] if reaches_loopback else ["--no-map-gw"]
    for server in name_servers or ("none",):
        out += ["--dns", server]
    for option, pairs in (("--tcp-ports", tcp), ("--udp-ports", udp)):
        out += [option, f"{address}/{','.join(write_ranges(pairs))}" if pairs else "none"]
    return out


class Passt:
    """A passt for one machine, kept running. `trouble` says what is wrong with it; empty: nothing."""

    def __init__(self, relay: FrameRelay, mac_address: str, arguments: Sequence[str]) -> None:
        self._relay = relay
        self._probe = _arp_request(mac_address)
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self.trouble = ""

    async def start(self) -> None:
        """Start it and attach it once it answers; NetworkError with its own words if it does not."""
        try:
            ours, theirs = _connected_pair()
        except OSError as exc:
            raise NetworkError(f"passt cannot be connected: {exc.strerror}") from exc
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *self._arguments,
                    *("--fd", str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    pass_fds=(theirs.fileno(),),
                    process_group=0,
                )
        except OSError as exc:
            ours.close()
            raise NetworkError(f"passt cannot be started: {exc.strerror}") from exc
        self._process = process
        ours.settimeout(READY_TIMEOUT_S)
        if not await asyncio.to_thread(_answers, ours, self._probe):
            ours.close()
            raise NetworkError(await _last_words(process))
        ours.settimeout(None)
        self._relay.attach(ours)

    async def keep(self) -> None:
        """Start it again whenever it ends, until cancelled. `start` comes first."""
        delay_s = RETRY_FIRST_S
        while True:
            assert self._process is not None
            began = time.monotonic()
            why = await _last_words(self._process, wait=True)
            if time.monotonic() - began > CALM_AFTER_S:
                delay_s = RETRY_FIRST_S
            while why:
                self.trouble = f"the guest has no network: {why}; it is started again"
                log.warning("passt ended", why=why, retry_s=delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_LONGEST_S)
                try:
                    await self.start()
                    why = ""
                except NetworkError as exc:
                    why = exc.message
            log.info("passt runs again")
            self.trouble = ""

    async def close(self) -> None:
        """End it. Idempotent."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


async def _last_words(process: asyncio.subprocess.Process, *, wait: bool = False) -> str:
    """Why it ended; one that still runs is killed first, or waited for."""
    if not wait and process.returncode is None:
        # It hung up, and is about to end, or it is silent.
        try:
            await asyncio.wait_for(process.wait(), 1)
        except TimeoutError:
            process.kill()
    assert process.stderr is not None
    tail = b""
    while piece := await process.stderr.read(4096):
        tail = (tail + piece)[-ERROR_LENGTH:]
    code = await process.wait()
    lines = [line for line in tail.decode(errors="replace").splitlines() if not line.startswith("Failed to send")]
    ended = f"passt was ended by signal {-code}" if code < 0 else f"passt ended with exit code {code}"
    return ": ".join([ended, *filter(None, [" / ".join(filter(None, lines))])])


def _answers(sock: socket.socket, probe: bytes) -> bool:
    """Whether passt answers the question for the gateway's address: then its ports are bound and it carries frames."""
    try:
        sock.sendall(probe)
    except OSError:
        return False
    return next(read_frames(sock), None) is not None


def _arp_request(mac_address: str) -> bytes:
    mac = bytes.fromhex(mac_address.replace(":", ""))
    guest, gateway = (ipaddress.IPv4Address(address).packed for address in (GUEST_ADDRESS, GATEWAY))
    frame = b"\xff" * 6 + mac + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    frame += mac + guest + bytes(6) + gateway
    return struct.pack("!I", len(frame)) + frame


def _connected_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection that takes megabytes in one go.

    passt drops the frames that do not fit and sends them again only after two seconds. A pair of Unix sockets takes
    as much as net.core.wmem_max, 208 KiB by default, which the window of one guest's connection exceeds.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        theirs = socket.create_connection(server.getsockname())
        while True:
            ours, peer = server.accept()
            if peer == theirs.getsockname():
                break
            ours.close()  # a stranger on this machine was faster
    for end in (ours, theirs):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
