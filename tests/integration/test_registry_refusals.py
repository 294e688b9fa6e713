"""What the registry says before a body comes, and to requests that two parsers could read differently."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dvcr.config import RegistrySettings
from dvcr.digest import Digest
from dvcr.registry.registry import Registry
from dvcr.storage.filesystem import FilesystemStorage
from tests.support.app_server import AppServer

DATA = os.urandom(100_000)
DIGEST = Digest.of(DATA)
PEBIBYTE = 2**50
POST = f"POST /v2/{{}}/blobs/uploads/?digest={DIGEST} HTTP/1.1"

Connect = Callable[[], socket.socket]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AppServer]:
    registry = Registry(FilesystemStorage(tmp_path / "root"), quotas={"small/": 10_000_000})
    with AppServer(registry, RegistrySettings(max_manifest_bytes=1000)) as server:
        yield server


@pytest.fixture
def connect(server: AppServer) -> Connect:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return lambda: socket.create_connection((host, int(port)), timeout=20)


def ask(connection: socket.socket, *lines: str) -> None:
    connection.sendall("\r\n".join((*lines, "Host: registry", "", "")).encode())


def head(connection: socket.socket) -> tuple[int, str]:
    """Status and headers of the next answer, which comes although no body was sent."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.recv(1)
        assert data, received
        received += data
    text = received.decode()
    return int(text.split()[1]), text


def begin(connect: Connect, repository: str = "a") -> str:
    with closing(connect()) as connection:
        ask(connection, f"POST /v2/{repository}/blobs/uploads/ HTTP/1.1", "Content-Length: 0")
        _, answer = head(connection)
        return answer.split("Location: ")[1].split("\r\n")[0]


class TestBeforeTheBody:
    @pytest.mark.parametrize(("repository", "status"), [("a", 507), ("small/a", 403)])
    @pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)])
    def test_no_room_for_it(
        self, connect: Connect, server: AppServer, repository: str, status: int, expect: tuple[str, ...]
    ) -> None:
        session = begin(connect, repository)
        requests = (POST.format(repository), f"PUT {session}?digest={DIGEST} HTTP/1.1", f"PATCH {session} HTTP/1.1")
        for line in requests[:1] + requests[2:]:
            with closing(connect()) as connection:
                ask(connection, line, f"Content-Length: {PEBIBYTE}", *expect)
                assert head(connection)[0] == status
        with closing(connect()) as connection:  # the refused PATCH has ended the session
            ask(connection, requests[1], f"Content-Length: {PEBIBYTE}")
            assert head(connection)[0] == 404
        assert list(server.registry.storage.uploads()) == []

    def test_a_put_without_room_ends_its_session(self, connect: Connect, server: AppServer) -> None:
        with closing(connect()) as connection:
            ask(connection, f"PUT {begin(connect)}?digest={DIGEST} HTTP/1.1", f"Content-Length: {PEBIBYTE}")
            assert head(connection)[0] == 507
        assert list(server.registry.storage.uploads()) == []

    def test_who_waits_is_asked_for_it_once_it_is_wanted(self, connect: Connect) -> None:
        with closing(connect()) as connection:
            ask(connection, POST.format("a"), f"Content-Length: {len(DATA)}", "Expect: 100-continue")
            assert head(connection)[0] == 100
            connection.sendall(DATA)
            status, answer = head(connection)
            assert status == 201
            assert "connection: close" not in answer.lower()
            ask(connection, f"HEAD /v2/a/blobs/{DIGEST} HTTP/1.1")
            assert head(connection)[0] == 200

    @pytest.mark.parametrize(
        ("line", "size_bytes", "status"),
        [
            ("PUT /v2/a/manifests/v1 HTTP/1.1", 2000, 413),
            ("PUT /v2/a/manifests/-v1 HTTP/1.1", 10, 400),
            ("POST /v2/A/blobs/uploads/?digest=x HTTP/1.1", 10, 400),
            ("PATCH /v2/a/blobs/uploads/0123456789abcdef0123456789abcdef HTTP/1.1", 10, 404),
        ],
    )
    def test_who_waits_and_is_refused_sends_none_of_it(
        self, connect: Connect, line: str, size_bytes: int, status: int
    ) -> None:
        with closing(connect()) as connection:
            ask(connection, line, f"Content-Length: {size_bytes}", "Expect: 100-continue")
            found, answer = head(connection)
            assert found == status
            assert "connection: close" in answer.lower()

    def test_another_expectation(self, connect: Connect) -> None:
        with closing(connect()) as connection:
            ask(connection, POST.format("a"), "Content-Length: 10", "Expect: miracles")
            assert head(connection)[0] == 417


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: +5",),
        ("Content-Length: 5, 6",),
        ("Content-Length : 5",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: xchunked",),
        ("X-Folded: a", " b"),
        ("X-Null: a\0b",),
    ],
)
def test_a_request_with_two_meanings_is_refused_and_nothing_after_it_is_read(
    connect: Connect, lines: tuple[str, ...]
) -> None:
    with closing(connect()) as connection:
        # At once: a server that closes with bytes unread resets the connection, and its answer may be lost.
        smuggled = "0\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: smuggled"
        ask(connection, "POST /v2/a/blobs/uploads/ HTTP/1.1", *lines, "Host: registry", "", smuggled)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert answer.count(b"HTTP/1.") == 1
