"""A registry client that is cheap enough to saturate a server, and a server that does nothing, to show how cheap.

One process and one keep-alive connection for each unit of concurrency, raw sockets: `sendfile` from a file in the page
cache out, `recv_into` one buffer and forget in. Blobs are pushed the shortest way the spec has: POST, then one PUT.
"""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BUFFER_BYTES = 2**20
REPOSITORY = "bench/registry"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_ACCEPT = f"Accept: {MANIFEST_TYPE}\r\n".encode()
_PROCESSES = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Slice:
    """A blob: a part of the file with the random bytes."""

    file: Path
    offset: int
    size: int
    digest: str


class Connection:
    """One keep-alive connection to a registry."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def push(self, blob: Slice) -> None:
        """Upload a blob."""
        head = self.request(b"POST", f"/v2/{REPOSITORY}/blobs/uploads/", 202)
        location = next(line[9:].strip() for line in head.split(b"\r\n") if line[:9].lower() == b"location:").decode()
        path = "/" + location.split("/", 3)[3] if location.startswith("http") else location
        path += ("&" if "?" in path else "?") + f"digest={blob.digest}"
        self._send(b"PUT", path, blob.size, b"Content-Type: application/octet-stream\r\n")
        with blob.file.open("rb") as file:
            offset, end = blob.offset, blob.offset + blob.size
            while offset < end:
                offset += os.sendfile(self._socket.fileno(), file.fileno(), offset, end - offset)
        self._receive(201, discard=True)

    def pull(self, blob: Slice) -> None:
        """Download a blob and forget it."""
        head = self.request(b"GET", f"/v2/{REPOSITORY}/blobs/{blob.digest}", 200)
        if content_length(head) != blob.size:
            raise SystemExit(f"{blob.size} bytes expected: {head!r}")

    def put_manifest(self, tag: str, document: bytes) -> None:
        """Push a manifest."""
        self._send(
            b"PUT", f"/v2/{REPOSITORY}/manifests/{tag}", len(document), f"Content-Type: {MANIFEST_TYPE}\r\n".encode()
        )
        self._socket.sendall(document)
        self._receive(201, discard=True)

    def request(self, method: bytes, path: str, status: int) -> bytes:
        """Send a request without a body, drop the answer's, give its head."""
        self._send(method, path, 0 if method == b"POST" else None, _ACCEPT)
        return self._receive(status, discard=method != b"HEAD")

    def _send(self, method: bytes, path: str, size: int | None, headers: bytes = b"") -> None:
        length = b"" if size is None else b"Content-Length: %d\r\n" % size
        self._socket.sendall(
            b"%b %b HTTP/1.1\r\nHost: localhost\r\n%b%b\r\n" % (method, path.encode(), headers, length)
        )

    def _receive(self, status: int, *, discard: bool) -> bytes:
        got = 0
        while True:
            count = self._socket.recv_into(self._buffer[got:])
            if not count:
                raise SystemExit("the server closed the connection")
            got += count
            start = bytes(self._buffer[: min(got, 8192)])
            end = start.find(b"\r\n\r\n")
            if end >= 0:
                break
        head = start[:end]
        if int(head[9:12]) != status:
            raise SystemExit(f"{status} expected: {bytes(self._buffer[:got])!r}")
        if discard:
            rest = content_length(head) - (got - end - 4)
            while rest:
                count = self._socket.recv_into(self._buffer, min(rest, BUFFER_BYTES))
                if not count:
                    raise SystemExit("the server cut an answer")
                rest -= count
        return head


def content_length(head: bytes) -> int:
    """What a message's head says of the size of its body."""
    at = head.lower().find(b"\r\ncontent-length:")
    return 0 if at < 0 else int(head[at + 17 :].split(b"\r\n", 1)[0])


def measure(port: int, tasks: Sequence[Sequence[Callable[[Connection], object]]]) -> float:
    """Seconds from the first task's begin to the last one's end; each sequence is done by a process of its own."""
    barrier = _PROCESSES.Barrier(len(tasks))
    begins, ends = (_PROCESSES.Array("d", len(tasks), lock=False) for _ in range(2))

    def work(number: int) -> None:
        connection = Connection(port)
        barrier.wait(60)
        begins[number] = time.monotonic()
        for task in tasks[number]:
            task(connection)
        ends[number] = time.monotonic()
        connection.close()

    processes = [_PROCESSES.Process(target=work, args=(number,)) for number in range(len(tasks))]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a client process failed")
    return float(max(ends) - min(begins))


@contextmanager
def null_server(blobs: Sequence[Slice]) -> Iterator[int]:
    """The port of a server that drops what is pushed and answers at once: shows the ceiling of the client."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        process = _PROCESSES.Process(target=_accept, args=(listener, {blob.digest.encode(): blob for blob in blobs}))
        process.start()
        try:
            yield listener.getsockname()[1]
        finally:
            process.terminate()
            process.join()


def _accept(listener: socket.socket, blobs: Mapping[bytes, Slice]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if not os.fork():
            try:
                _answer(connection, blobs)
            finally:
                os._exit(0)
        connection.close()


def _answer(connection: socket.socket, blobs: Mapping[bytes, Slice]) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(BUFFER_BYTES))
    while count := connection.recv_into(buffer):
        head, _, body = bytes(buffer[:count]).partition(b"\r\n\r\n")
        rest = content_length(head) - len(body)
        while rest:
            rest -= connection.recv_into(buffer, min(rest, BUFFER_BYTES))
        method, path = head.split(b" ", 2)[:2]
        blob = blobs.get(path.rpartition(b"/")[2]) if method in (b"GET", b"HEAD") else None
        status = {b"POST": 202, b"PUT": 201}.get(method, 200)
        size = blob.size if blob else 500 * (status == 200)
        answer = b"HTTP/1.1 %d OK\r\nLocation: /v2/upload\r\nContent-Length: %d\r\n\r\n" % (status, size)
        if method == b"GET" and not blob:
            answer += bytes(size)
        connection.sendall(answer)
        if method == b"GET" and blob:
            with blob.file.open("rb") as file:
                connection.sendfile(file, blob.offset, blob.size)
