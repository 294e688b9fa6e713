"""Carries Ethernet frames between QEMU, which stays, and passt, which may end and be replaced.

Both speak the protocol of `-netdev stream`: each frame behind its length in four bytes. On the way out, frames that the
guest must not send are left out: nothing but ARP and IPv4, and no IPv4 to a denied network. That is needed though a
well-behaved guest never sends to 127.0.0.1: older versions of passt open a connection to wherever a frame is addressed,
and that is then the loopback address of the launcher's own network.
"""

import ipaddress
import socket
import struct
import threading
from collections.abc import Iterable, Iterator

import structlog

MAX_FRAME_BYTES = 4096 + 65536
BUFFER_BYTES = 4 * MAX_FRAME_BYTES
MAX_VERDICTS = 4096
IPV4, ARP = b"\x08\x00", b"\x08\x06"
_LENGTH = struct.Struct("!I")
# From the length in front of the frame: the EtherType, and the destination of an IPv4 packet.
_TYPE = slice(16, 18)
_DESTINATION = slice(34, 38)

log = structlog.get_logger(__name__)


class Gate:
    """Decides which frames may leave the machine. Not thread-safe."""

    def __init__(self, denied: Iterable[str], exempt: Iterable[str] = ()) -> None:
        self._denied = [ipaddress.IPv4Network(network) for network in denied]
        self._exempt = {ipaddress.IPv4Address(address) for address in exempt}
        self._verdicts: dict[bytes, bool] = {}

    def passes(self, frame: memoryview) -> bool:
        """Whether the frame, with its length in front, may pass."""
        kind = bytes(frame[_TYPE])
        if kind == ARP:
            return True
        destination = bytes(frame[_DESTINATION])
        if kind != IPV4 or len(destination) < 4:
            return False
        verdict = self._verdicts.get(destination)
        if verdict is None:
            verdict = self._judge(destination)
            if len(self._verdicts) >= MAX_VERDICTS:
                self._verdicts.clear()
            self._verdicts[destination] = verdict
        return verdict

    def _judge(self, destination: bytes) -> bool:
        address = ipaddress.IPv4Address(destination)
        return address in self._exempt or not any(address in network for network in self._denied)


class FrameRelay:
    """Carries frames from its making until `close`, or until QEMU hangs up. Owns the sockets that it is given."""

    def __init__(self, machine: socket.socket, gate: Gate) -> None:
        self._machine = machine
        self._gate = gate
        self._network: socket.socket | None = None
        self._machine_turn = threading.Lock()
        threading.Thread(target=self._carry_out, name="frames-out", daemon=True).start()

    def attach(self, network: socket.socket) -> None:
        """Carry between QEMU and this socket from now on."""
        self._network = network
        threading.Thread(target=self._carry_in, args=(network,), name="frames-in", daemon=True).start()

    def close(self) -> None:
        """Hang up on both sides. Idempotent."""
        for end in (self._machine, self._network):
            if end is not None:
                _hang_up(end)

    def _carry_out(self) -> None:
        for frames in read_frames(self._machine):
            network = self._network
            if network is None:
                continue  # what a cable does that nobody has plugged in
            try:
                for run in self._allowed(frames):
                    network.sendall(run)
            except OSError:
                # That passt has ended is noticed, and mended, by whoever started it.
                continue
        self._machine.close()

    def _carry_in(self, network: socket.socket) -> None:
        for frames in read_frames(network):
            # A predecessor of `network` may still wait to be rid of its last frames.
            with self._machine_turn:
                try:
                    self._machine.sendall(frames)
                except OSError:
                    break
        network.close()

    def _allowed(self, frames: memoryview) -> Iterator[memoryview]:
        """The frames that pass the gate, neighbours in one piece."""
        start = position = 0
        while position < len(frames):
            end = position + _LENGTH.size + _LENGTH.unpack_from(frames, position)[0]
            if not self._gate.passes(frames[position:end]):
                if start < position:
                    yield frames[start:position]
                start = end
            position = end
        if start < position:
            yield frames[start:position]


def read_frames(sock: socket.socket) -> Iterator[memoryview]:
    """Whole frames, as many at once as have arrived, up to the end of the stream. Each piece is good until the next."""
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    filled = 0
    while True:
        try:
            count = sock.recv_into(view[filled:])
        except OSError:
            return
        if not count:
            return
        filled += count
        end = 0
        while filled - end >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, end)
            if length > MAX_FRAME_BYTES:
                log.error("the network's stream is out of step", frame_bytes=length)
                return
            if end + _LENGTH.size + length > filled:
                break
            end += _LENGTH.size + length
        if end:
            yield view[:end]
            rest = bytes(view[end:filled])
            filled = len(rest)
            view[:filled] = rest


def _hang_up(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was first
