"""The upload service with a real curl, Redis and registry."""

import hashlib
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

from dvcr.artifact.staged import read_parts
from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings
from dvcr.digest import Digest
from dvcr.jobs.job import UploadState, UploadTicket
from dvcr.jobs.redis import RedisJobBoard
from dvcr.storage import paths
from tests.support.redis import RedisServer
from tests.support.registry import RegistryServer
from tests.support.waiting import eventually

MIB = 2**20
# A disk, as far as its first sector tells.
CONTENT = bytes(510) + b"\x55\xaa" + random.Random(4).randbytes(11 * MIB + 5 - 512)
_UPLOADER = "from dvcr.cli.main import app; from uploader import commands; commands.register(app); app()"


class Uploads:
    """A running uploader and what is behind it."""

    def __init__(self, environment: dict[str, str], board: RedisJobBoard, registry: RegistryServer) -> None:
        self.url = ""
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self.board = board
        self.registry = registry
        self.client = RegistryClient.from_settings(ClientSettings(url=registry.url))

    def start(self) -> None:
        """Start the uploader, on a free port."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _UPLOADER, "uploader"],
            env=os.environ | self._environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[-1]

    def start_with(self, **environment: str) -> None:
        """As `start`, with these variables from now on."""
        self._environment |= environment
        self.start()

    def point_at(self, registry: RegistryServer) -> None:
        """Use another registry from the next start on."""
        self._environment["DVCR__CLIENT__URL"] = registry.url
        self.registry = registry
        self.client = RegistryClient.from_settings(ClientSettings(url=registry.url))

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def stop(self) -> int:
        """End it with SIGTERM; its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate(timeout=20)
        return self._process.wait()

    def ticket(self, expires_in_s: float = 900, checksums: dict[str, str] | None = None) -> UploadTicket:
        token = uuid.uuid4().hex
        ticket = UploadTicket(
            token=token,
            repository=f"vmi/default/{token}",
            checksums=checksums or {},
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
        repository = self.client.repository(ticket.repository)
        parts = read_parts(repository, Digest.parse(told.digest))
        assert parts == told.parts
        assert b"".join(repository.read_blob(part.digest) for part in parts) == CONTENT

    def links(self, ticket: UploadTicket) -> list[Path]:
        """The blobs that the ticket's repository has."""
        folder = self.registry.root / paths.blob_links(ticket.repository)
        return [path for path in folder.rglob("*") if path.is_file()]

    def sessions(self) -> list[Path]:
        """Files of upload sessions in the registry's store."""
        return [path for path in self.registry.root.rglob("*") if path.is_file() and "uploads" in str(path).split("/")]


@pytest.fixture
def uploads(redis_server: RedisServer, fresh_registry: RegistryServer) -> Iterator[Uploads]:
    environment = {
        "DVCR__BROKER__URL": redis_server.url,
        "DVCR__CLIENT__URL": fresh_registry.url,
        "DVCR__UPLOADER__PORT": "0",
        "DVCR__UPLOADER__IDLE_TIMEOUT_S": "30",
    }
    uploads = Uploads(environment, RedisJobBoard.from_settings(redis_server.settings()), fresh_registry)
    uploads.start()
    yield uploads
    assert uploads.stop() == 0


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
    assert json.loads(body) == {"state": "Complete", "receivedBytes": len(CONTENT)}
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
    assert uploads.told(ticket).offset_bytes == 6 * MIB, "what has arrived is safe"
    assert uploads.sessions() == []
    assert curl(uploads.address(ticket), "-T", file)[0] == 201, "a whole file starts over"
    uploads.complete(ticket)


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_an_upload_too_many_leaves_alone_what_was_received(uploads: Uploads, method: str) -> None:
    uploads.stop()
    uploads.start_with(DVCR__UPLOADER__MAX_CLIENT_UPLOADS="1")
    first = {"Content-Range": f"bytes 0-{MIB - 1}/{len(CONTENT)}"}
    ticket = uploads.ticket()
    assert requests.put(uploads.address(ticket), CONTENT[:MIB], headers=first, timeout=10).status_code == 202
    connection = begun(uploads, uploads.ticket())
    tus = {
        "Tus-Resumable": "1.0.0",
        "Upload-Length": str(len(CONTENT)),
        "Content-Type": "application/offset+octet-stream",
    }
    anew = requests.request(
        method, uploads.address(ticket), data=CONTENT, headers=tus if method == "POST" else {}, timeout=10
    )
    assert (anew.status_code, anew.headers["Retry-After"]) == (429, "5")
    connection.close()
    assert uploads.told(ticket).offset_bytes == MIB
    assert len(uploads.links(ticket)) == 1


def test_silent_upload_is_cut(uploads: Uploads, file: Path) -> None:
    uploads.stop()
    uploads.start_with(DVCR__UPLOADER__IDLE_TIMEOUT_S="1")
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
    assert uploads.links(ticket) == []


def test_an_upload_goes_on_where_it_was_cut(uploads: Uploads, file: Path) -> None:
    ticket = uploads.ticket()
    begun(uploads, ticket).close()
    eventually(lambda: uploads.told(ticket).state is UploadState.WAITING, "the ticket is free again")
    address, offset = uploads.address(ticket), 6 * MIB
    assert requests.get(address, timeout=10).json()["offset"] == offset
    status, body = curl(address, "-C", offset + 1, "-T", file)
    assert (status, f"-C {offset} " in body) == (416, True)
    assert curl(address, "-C", offset, "-T", file)[0] == 201
    uploads.complete(ticket)


def test_curl_that_begins_anew_with_a_range_is_compared_with_what_is_here(uploads: Uploads, file: Path) -> None:
    ticket = uploads.ticket()
    begun(uploads, ticket).close()
    eventually(lambda: uploads.told(ticket).state is UploadState.WAITING, "the ticket is free again")
    other = file.with_name("other")
    other.write_bytes(CONTENT[:MIB] + bytes(1) + CONTENT[MIB + 1 :])
    status, body = curl(uploads.address(ticket), "-C", "-", "-T", other)
    assert (status, "not the file that was begun" in body) == (409, True)
    assert uploads.told(ticket).offset_bytes == 6 * MIB
    assert curl(uploads.address(ticket), "-C", "-", "-T", file)[0] == 201
    uploads.complete(ticket)


def test_pieces_that_are_many_become_few_parts(uploads: Uploads) -> None:
    ticket = uploads.ticket()
    piece = len(CONTENT) // 23 + 1
    for start in range(0, len(CONTENT), piece):
        body = CONTENT[start : start + piece]
        headers = {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{len(CONTENT)}"}
        response = requests.put(uploads.address(ticket), body, headers=headers, timeout=10)
        assert response.status_code == (201 if start + len(body) == len(CONTENT) else 202)
    uploads.complete(ticket)
    assert len(uploads.told(ticket).parts) < 6


def test_a_killed_uploader_loses_nothing_that_it_told(uploads: Uploads, file: Path, redis_server: RedisServer) -> None:
    ticket = uploads.ticket()
    half = len(CONTENT) // 2
    headers = {"Content-Range": f"bytes 0-{half - 1}/{len(CONTENT)}"}
    assert requests.put(uploads.address(ticket), CONTENT[:half], headers=headers, timeout=10).status_code == 202
    uploads.kill()
    redis_server.client().flushall()
    uploads.board.update_ticket(ticket.model_copy(update={"parts": ()}), "uploader")
    uploads.start()
    assert requests.get(uploads.address(ticket), timeout=10).json()["offset"] == 0, "Redis lost it: from the beginning"
    assert requests.put(uploads.address(ticket), CONTENT[:half], headers=headers, timeout=10).status_code == 202
    uploads.kill()
    uploads.start()
    assert curl(uploads.address(ticket), "-C", half, "-T", file)[0] == 201
    uploads.complete(ticket)


def test_an_upload_outlives_a_restart_of_the_registry(uploads: Uploads) -> None:
    ticket = uploads.ticket()
    connection = begun(uploads, ticket)
    port = urlsplit(uploads.registry.url).port or 0
    uploads.registry.kill()
    uploads.registry.start_at(port)
    connection.sendall(CONTENT[6 * MIB :])
    connection.settimeout(30)
    assert b"201" in connection.recv(100)
    connection.close()
    uploads.complete(ticket)


def test_sigterm_makes_safe_what_has_arrived(uploads: Uploads, file: Path) -> None:
    ticket = uploads.ticket()
    connection = begun(uploads, ticket)
    assert uploads.stop() == 0
    connection.settimeout(15)
    assert b"503" in connection.recv(100)
    connection.close()
    offset = uploads.told(ticket).offset_bytes
    assert (uploads.told(ticket).state, offset >= 4 * MIB) == (UploadState.WAITING, True)
    uploads.start()
    assert curl(uploads.address(ticket), "-C", offset, "-T", file)[0] == 201
    uploads.complete(ticket)


def test_what_is_no_image_fails_early_with_its_reason(uploads: Uploads, tmp_path: Path) -> None:
    ticket = uploads.ticket()
    pdf = tmp_path / "report.iso"
    pdf.write_bytes(b"%PDF-1.7\n" + random.Random(1).randbytes(5 * MIB))
    status, body = curl(uploads.address(ticket), "-T", pdf)
    assert (status, "a PDF document" in body) == (422, True)
    told = uploads.told(ticket)
    assert (told.state, told.reason, told.parts) == (UploadState.FAILED, "UnknownFormat", ())
    assert uploads.links(ticket) == []
    assert curl(uploads.address(ticket), "-T", pdf)[0] == 410


def test_what_is_no_image_fails_also_where_the_connection_is_cut_then(uploads: Uploads) -> None:
    ticket = uploads.ticket()
    parts = urlsplit(uploads.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
    connection.putrequest("PUT", f"/upload/{ticket.token}")
    connection.putheader("Content-Length", str(20 * MIB))
    # More than is looked at, and less than what is handed on at once.
    connection.endheaders(b"%PDF-1.7\n" + random.Random(1).randbytes(3 * MIB))
    connection.close()
    eventually(lambda: uploads.told(ticket).state is UploadState.FAILED, "the upload fails")
    assert (uploads.told(ticket).reason, uploads.told(ticket).parts) == ("UnknownFormat", ())
    assert (uploads.links(ticket), uploads.sessions()) == ([], [])


def test_redis_is_away_in_the_middle_of_a_body(
    fresh_registry: RegistryServer, file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    redis = RedisServer(tmp_path_factory.mktemp("r"), persistent=True)
    redis.start()
    environment = {
        "DVCR__BROKER__URL": redis.url,
        "DVCR__CLIENT__URL": fresh_registry.url,
        "DVCR__UPLOADER__PORT": "0",
    }
    uploads = Uploads(environment, RedisJobBoard.from_settings(redis.settings()), fresh_registry)
    uploads.start()
    try:
        ticket = uploads.ticket()
        connection = begun(uploads, ticket)
        redis.stop()
        connection.sendall(CONTENT[6 * MIB :])
        connection.settimeout(60)
        answer = connection.recv(1000)
        assert b" 503 " in answer
        assert b"Redis does not answer" in answer
        connection.close()
        assert requests.get(uploads.address(ticket), timeout=60).status_code == 503
        redis.start()
        eventually(
            lambda: curl(uploads.address(ticket), "-C", uploads.told(ticket).offset_bytes, "-T", file)[0] == 201,
            "the upload goes on, once the lease of the one that was cut has ended",
            timeout_s=60,
        )
        uploads.complete(ticket)
        assert uploads.sessions() == []
    finally:
        assert uploads.stop() == 0
        redis.stop()


def test_wrong_checksum_is_told_at_the_end(uploads: Uploads, file: Path) -> None:
    ticket = uploads.ticket(checksums={"md5": "0" * 32})
    status, body = curl(uploads.address(ticket), "-T", file)
    assert (status, body.startswith("ChecksumMismatch: ")) == (422, True)
    assert (uploads.told(ticket).reason, uploads.links(ticket)) == ("ChecksumMismatch", [])


def test_right_checksum_need_not_be_checked_again(uploads: Uploads, file: Path) -> None:
    ticket = uploads.ticket(checksums={"sha256": hashlib.sha256(CONTENT).hexdigest()})
    assert curl(uploads.address(ticket), "-T", file)[0] == 201
    assert uploads.told(ticket).verified


def test_bad_ranges_and_sizes(uploads: Uploads, file: Path) -> None:
    address = uploads.address(uploads.ticket())
    for content_range in ("bytes 5-2/9", "bytes 0-9/9", "lines 0-1/2", "bytes 0-3/9"):
        response = requests.put(address, b"12345", headers={"Content-Range": content_range}, timeout=10)
        assert response.status_code == 400, content_range
    huge = {"Content-Range": f"bytes 0-4/{2**42}"}
    assert requests.put(address, b"12345", headers=huge, timeout=10).status_code == 413


def test_metrics_tell_no_token(uploads: Uploads, file: Path) -> None:
    ticket = uploads.ticket()
    curl(uploads.address(ticket), "-T", file)
    text = requests.get(f"{uploads.url}/metrics", timeout=10).text
    assert 'dvcr_uploader_uploads_total{result="complete"} 1.0' in text
    assert ticket.token not in text


def test_a_full_registry_is_told_and_the_upload_goes_on_later(
    uploads: Uploads, file: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    small = RegistryServer(tmp_path / "small", {"DVCR__REGISTRY__QUOTAS": json.dumps({"": 8 * MIB})})
    with small:
        uploads.stop()
        uploads.point_at(small)
        uploads.start()
        ticket = uploads.ticket()
        status, body = curl(uploads.address(ticket), "-T", file)
        assert (status, "no room" in body) == (507, True)
        assert (uploads.told(ticket).state, uploads.links(ticket)) == (UploadState.WAITING, [])
        assert "no room" in uploads.told(ticket).message
