"""A TCP proxy whose first connection is cut, with a reset, after so many bytes of the client."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@contextmanager
def cutting_proxy(host: str, port: int, after_bytes: int) -> Iterator[str]:
    """Address (`http://...`) of a running proxy in front of a server."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    clients: list[socket.socket] = []

    def accept() -> None:
        budget: int | None = after_bytes
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # closed: the end
            clients.append(client)
            thread = threading.Thread(target=_relay, args=(client, host, port, budget))
            thread.start()
            threads.append(thread)
            budget = None

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for client in clients:
            with suppress(OSError):  # hung up already
                client.shutdown(socket.SHUT_RDWR)
        for thread in (accepting, *threads):
            thread.join(10)


def _relay(client: socket.socket, host: str, port: int, budget: int | None) -> None:
    with client, socket.create_connection((host, port)) as server:
        back = threading.Thread(target=_copy_back, args=(server, client))
        back.start()
        try:
            while data := client.recv(65536):
                server.sendall(data)
                if budget is not None and (budget := budget - len(data)) <= 0:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                    break
        except OSError:
            pass  # either side has hung up
        server.shutdown(socket.SHUT_RDWR)
        back.join()


def _copy_back(server: socket.socket, client: socket.socket) -> None:
    try:
        while data := server.recv(65536):
            client.sendall(data)
    except OSError:
        return  # either side has hung up
