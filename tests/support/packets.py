"""A guest that a test writes: its network card, packet by packet, at QEMU's end of `-netdev stream`."""

import ipaddress
import os
import socket
import struct
import time
from dataclasses import dataclass
from typing import Self

GUEST, GATEWAY = "10.0.2.15", "10.0.2.2"
MAC = "52:54:00:0a:0b:0c"
BROADCAST = b"\xff" * 6
SYN, ACK, SYN_ACK, RST = 0x02, 0x10, 0x12, 0x04


@dataclass(frozen=True)
class TcpPacket:
    source: tuple[str, int]
    destination: tuple[str, int]
    flags: int
    sequence: int
    acknowledged: int
    data: bytes


class Card:
    """The card; `fd` is what QEMU would inherit."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=os.dup(fd))
        self._sock.settimeout(20)
        self._received = b""
        self._mac = bytes.fromhex(MAC.replace(":", ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sock.close()

    def send(self, kind: int, payload: bytes) -> None:
        frame = BROADCAST + self._mac + struct.pack("!H", kind) + payload
        self._sock.sendall(struct.pack("!I", len(frame)) + frame)

    def receive(self) -> bytes:
        """The next frame."""
        while len(self._received) < 4 or len(self._received) < 4 + self._length():
            data = self._sock.recv(65536)
            if not data:
                raise EOFError("the network hung up")
            self._received += data
        end = 4 + self._length()
        frame, self._received = self._received[4:end], self._received[end:]
        return frame

    def _length(self) -> int:
        return int.from_bytes(self._received[:4])

    def receive_tcp(self, port: int, timeout_s: float = 20) -> TcpPacket:
        """The next TCP packet from or to that port."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            packet = _tcp_of(self.receive())
            if packet is not None and port in (packet.source[1], packet.destination[1]):
                return packet
        raise TimeoutError(f"no packet of port {port}")

    def send_tcp(
        self, destination: tuple[str, int], source_port: int, flags: int, sequence: int = 1, acknowledged: int = 0
    ) -> None:
        self.send(0x0800, _ipv4(destination[0], 6, _tcp(destination, source_port, flags, sequence, acknowledged)))

    def send_udp(self, destination: tuple[str, int], source_port: int, data: bytes) -> None:
        header = struct.pack("!HHHH", source_port, destination[1], 8 + len(data), 0)
        self.send(0x0800, _ipv4(destination[0], 17, header + data))

    def connects(self, destination: tuple[str, int], source_port: int) -> bool:
        """Whether a connection to there is answered, not refused."""
        self.send_tcp(destination, source_port, SYN)
        return bool(self.receive_tcp(source_port).flags & SYN)


def _ipv4(destination: str, protocol: int, payload: bytes) -> bytes:
    ends = ipaddress.IPv4Address(GUEST).packed + ipaddress.IPv4Address(destination).packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + ends
    checksum = struct.pack("!H", _checksum(header))
    return header[:10] + checksum + header[12:] + payload


def _tcp(destination: tuple[str, int], source_port: int, flags: int, sequence: int, acknowledged: int) -> bytes:
    segment = struct.pack("!HHIIBBHHH", source_port, destination[1], sequence, acknowledged, 5 << 4, flags, 65535, 0, 0)
    ends = ipaddress.IPv4Address(GUEST).packed + ipaddress.IPv4Address(destination[0]).packed
    checksum = _checksum(ends + struct.pack("!BBH", 0, 6, len(segment)) + segment)
    return segment[:16] + struct.pack("!H", checksum) + segment[18:]


def _tcp_of(frame: bytes) -> TcpPacket | None:
    if frame[12:14] != b"\x08\x00" or frame[23] != 6:
        return None
    segment = frame[14 + 4 * (frame[14] & 15) : 14 + int.from_bytes(frame[16:18])]
    source_port, destination_port, sequence, acknowledged = struct.unpack_from("!HHII", segment)
    return TcpPacket(
        (str(ipaddress.IPv4Address(frame[26:30])), source_port),
        (str(ipaddress.IPv4Address(frame[30:34])), destination_port),
        segment[13] & 0x3F,
        sequence,
        acknowledged,
        segment[4 * (segment[12] >> 4) :],
    )


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = int(sum(struct.unpack(f"!{len(data) // 2}H", data)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
