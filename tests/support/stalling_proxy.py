"""A TCP proxy that falls silent on command: connections stay open, and nothing comes through any more."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class StallingProxy:
    """In front of one server. Listens as long as `stalling_proxy` is entered."""

    def __init__(self, host: str, port: int, after_bytes: int | None) -> None:
        self._target = host, port
        self._budget = after_bytes
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.silent = threading.Event()
        """Set once a client waits in vain."""
        self._marker: bytes | None = None
        self._flowing = threading.Event()
        if after_bytes != 0:
            self._flowing.set()

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    def stall(self) -> None:
        """Let nothing more through to clients."""
        self._flowing.clear()

    def stall_after(self, size_bytes: int) -> None:
        """Fall silent once so many bytes more of the server came through."""
        with self._lock:
            self._budget = size_bytes

    def stall_before(self, marker: bytes) -> None:
        """Hold back the first request that holds this, and everything after it."""
        self._marker = marker

    def resume(self) -> None:
        """Let everything through again, also what was held back."""
        self._budget = self._marker = None
        self._flowing.set()

    def accept(self) -> None:
        """Serve until `close`."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed: the end
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()  # the server is down
                continue
            self._sockets += client, server
            threading.Thread(target=self._copy, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(server, client, True), daemon=True).start()

    def close(self) -> None:
        """Hang up."""
        self.resume()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):  # hung up already
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _copy(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(65536):
                if counted:
                    self._count(len(data))
                elif self._marker is not None and self._marker in data:
                    self.stall()
                self._hold()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return  # either side has hung up

    def _hold(self) -> None:
        if not self._flowing.is_set():
            self.silent.set()
            self._flowing.wait()

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            if self._budget is not None:
                self._budget -= size_bytes
                if self._budget <= 0:
                    self.stall()


@contextmanager
def stalling_proxy(address: str, after_bytes: int | None = None) -> Iterator[StallingProxy]:
    """A running proxy in front of HOST:PORT, silent once that many bytes of the server came through."""
    host, _, port = address.rpartition(":")
    proxy = StallingProxy(host, int(port), after_bytes)
    thread = threading.Thread(target=proxy.accept, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(10)
