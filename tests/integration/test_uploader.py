"""The upload service with a real curl, Redis and registry."""

import http.client
import json
import os
import random
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings
from dvcr.digest import Digest
from dvcr.jobs.job import UploadState, UploadTicket
from dvcr.jobs.redis import RedisJobBoard
from tests.support.redis import RedisServer
from tests.support.registry import RegistryServer
from tests.support.waiting import eventually

MIB = 2**20
CONTENT = random.Random(4).randbytes(11 * MIB + 5)
_UPLOADER = "from dvcr.cli.main import app; from uploader import commands; commands.register(app); app()"


class Uploads:
    """A running uploader and what is behind it."""

    def __init__(self, url: str, board: RedisJobBoard, registry: RegistryServer) -> None:
        self.url = url
        self.board = board
        self.registry = registry
        self.client = RegistryClient.from_settings(ClientSettings(url=registry.url))

    def ticket(self, expires_in_s: float = 900) -> UploadTicket:
        token = uuid.uuid4().hex
        ticket = UploadTicket(
            token=token,
            repository=f"vmi/default/{token}",
            expires_at=datetime.now(UTC) + timedelta(seconds=expires_in_s),
        )
        self.board.open_ticket(ticket)
        return ticket

    def address(self, ticket: UploadTicket) -> str:
        return f"{self.url}/upload/{ticket.token}"

    def told(self, ticket: UploadTicket) -> UploadTicket:
        told = self.board.ticket(ticket.token)
        assert told is not None
        return told

    def complete(self, ticket: UploadTicket) -> None:
        """Assert that the whole file is a blob, and the board says so."""
        told = self.told(ticket)
        assert told.state is UploadState.COMPLETE
        assert told.received_bytes == told.total_bytes == len(CONTENT)
        assert told.digest == str(Digest.of(CONTENT))
        assert self.client.repository(ticket.repository).read_blob(Digest.of(CONTENT)) == CONTENT

    def sessions(self) -> list[Path]:
        """Files of upload sessions in the registry's store."""
        return [path for path in self.registry.root.rglob("*") if path.is_file() and "uploads" in str(path).split("/")]


@pytest.fixture
def uploads(redis_server: RedisServer, fresh_registry: RegistryServer) -> Iterator[Uploads]:
    environment = {
        "DVCR__BROKER__URL": redis_server.url,
        "DVCR__CLIENT__URL": fresh_registry.url,
        "DVCR__UPLOADER__PORT": "0",
        "DVCR__UPLOADER__IDLE_TIMEOUT_S": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _UPLOADER, "uploader"], env=os.environ | environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1]
    yield Uploads(url, RedisJobBoard.from_settings(redis_server.settings()), fresh_registry)
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "disk.iso"
    path.write_bytes(CONTENT)
    return path


def curl(*arguments: object) -> tuple[int, str]:
    """Status and body."""
    out = subprocess.run(
        ["curl", "-sS", "-w", "\n%{http_code}", *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout
    body, _, status = out.rpartition("\n")
    return int(status), body


def test_curl_uploads_a_file(uploads: Uploads, file: Path) -> None:
    ticket = uploads.ticket()
    status, body = curl(uploads.address(ticket), "-T", file)
    assert status == 201
    assert json.loads(body)["digest"] == str(Digest.of(CONTENT))
    uploads.complete(ticket)
    response = requests.head(uploads.address(ticket), timeout=10)
    assert response.headers["Upload-Offset"] == str(len(CONTENT))
    assert requests.get(uploads.address(ticket), timeout=10).json()["state"] == "Complete"
    assert curl(uploads.address(ticket), "-T", file)[0] == 409, "done is done"
    uploads.complete(ticket)


def test_curl_uploads_a_pipe_of_unknown_length(uploads: Uploads, file: Path) -> None:
    ticket = uploads.ticket()
    with file.open("rb") as pipe:
        command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", uploads.address(ticket), "-T", "-"]
        assert subprocess.run(command, check=True, capture_output=True, stdin=pipe).stdout == b"201"
    uploads.complete(ticket)


def test_refusals(uploads: Uploads, file: Path) -> None:
    unknown = uploads.ticket().model_copy(update={"token": "0" * 32})
    assert curl(uploads.address(unknown), "-T", file)[0] == 404
    late = uploads.ticket(expires_in_s=-1)
    status, body = curl(uploads.address(late), "-T", file)
    assert status == 410
    assert "begin before" in body
    empty = uploads.ticket()
    assert curl(uploads.address(empty), "-X", "PUT")[0] == 400
    assert uploads.told(empty).state is UploadState.WAITING
    assert requests.get(f"{uploads.url}/healthz", timeout=10).status_code == 200
    assert uploads.sessions() == []


def begun(uploads: Uploads, ticket: UploadTicket) -> socket.socket:
    """A connection that has sent half of the file."""
    parts = urlsplit(uploads.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
    connection.putrequest("PUT", f"/upload/{ticket.token}")
    connection.putheader("Content-Length", str(len(CONTENT)))
    connection.endheaders(CONTENT[: 6 * MIB])
    eventually(lambda: uploads.told(ticket).state is UploadState.RECEIVING, "the upload has begun")
    raw = connection.sock
    assert isinstance(raw, socket.socket)
    return raw


def test_one_writer_and_a_cut_upload_is_free_again(uploads: Uploads, file: Path) -> None:
    ticket = uploads.ticket()
    connection = begun(uploads, ticket)
    assert curl(uploads.address(ticket), "-T", file)[0] == 409
    connection.close()
    eventually(lambda: uploads.told(ticket).state is UploadState.WAITING, "the ticket is free again")
    assert uploads.told(ticket).received_bytes == 0
    assert uploads.sessions() == []
    assert uploads.registry.stored_bytes() == 0
    assert curl(uploads.address(ticket), "-T", file)[0] == 201
    uploads.complete(ticket)


def test_silent_upload_is_cut(uploads: Uploads, file: Path) -> None:
    ticket = uploads.ticket()
    connection = begun(uploads, ticket)
    connection.settimeout(15)
    assert b"408" in connection.recv(100)
    connection.close()
    eventually(lambda: uploads.told(ticket).state is UploadState.WAITING, "the ticket is free again")
    assert uploads.sessions() == []


def test_closed_ticket_ends_the_upload(uploads: Uploads, file: Path) -> None:
    ticket = uploads.ticket()
    connection = begun(uploads, ticket)
    uploads.board.close_ticket(ticket.token)
    connection.sendall(CONTENT[6 * MIB :])
    connection.settimeout(15)
    assert b"404" in connection.recv(100)
    connection.close()
    assert uploads.board.ticket(ticket.token) is None
    eventually(lambda: uploads.sessions() == [], "the session is gone")
    assert uploads.registry.stored_bytes() == 0
