"""Exact receives and gathered sends on the socket of one NBD client."""

import socket
import time
from collections.abc import Sequence

Buffer = bytes | bytearray | memoryview


class DisconnectError(Exception):
    """The connection is over: the peer left, broke the protocol, or the server stops."""


class Connection:
    """One client's socket. Every method raises DisconnectError once the connection is over."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._waits_since: float | None = None

    def idle_s(self) -> float:
        """How long the client has been waited for, to send or to take bytes; 0 while it waits for us."""
        since = self._waits_since
        return 0.0 if since is None else time.monotonic() - since

    def receive(self, length_bytes: int) -> bytearray:
        """Exactly that many bytes. The caller has bounded the length."""
        data = bytearray(length_bytes)
        self.receive_into(memoryview(data))
        return data

    def receive_into(self, view: memoryview) -> None:
        """Fill `view`."""
        done = 0
        while done < len(view):
            self._waits_since = time.monotonic()
            try:
                count = self._sock.recv_into(view[done:], 0, socket.MSG_WAITALL)
            except OSError as exc:
                raise DisconnectError("cannot receive") from exc
            self._waits_since = None
            if not count:
                raise DisconnectError("the client closed the connection")
            done += count

    def send(self, *parts: Buffer) -> None:
        """Send all parts, in order, without joining them."""
        pending: Sequence[memoryview] = [memoryview(part) for part in parts if len(part)]
        try:
            while pending:
                self._waits_since = time.monotonic()
                sent = self._sock.sendmsg(pending)
                while pending and sent >= len(pending[0]):
                    sent -= len(pending[0])
                    pending = pending[1:]
                if sent:
                    pending = [pending[0][sent:], *pending[1:]]
        except OSError as exc:
            raise DisconnectError("cannot send") from exc
        self._waits_since = None

    def set_timeout(self, timeout_s: float | None) -> None:
        """Longest wait of one receive or send from now on."""
        self._sock.settimeout(timeout_s)
