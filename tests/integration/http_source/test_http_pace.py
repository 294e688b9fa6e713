"""The HTTP source against servers that are silent, slow, or fast over several connections."""

import random
import socket
import threading
import time
from contextlib import closing

import pytest

from dvcr.config import ImporterSettings
from dvcr.errors import SourceError
from dvcr.jobs.job import HttpOrigin
from importer.sources.download import HttpDownload
from tests.support.file_server import FileServer
from tests.support.http_source import CONTENT, MIB, Open, failure, sums
from tests.support.waiting import eventually


def test_silence_is_cut_and_resumed(server: FileServer, open_source: Open) -> None:
    server.gate_after, server.gate = MIB, threading.Event()
    with open_source(server.url, sums(), idle_timeout_s=0.2) as source:
        source.read_at(0, MIB)
        eventually(lambda: len(server.requests) >= 2, "the source asks again")
        server.gate.set()
        source.finish()


def test_close_wakes_a_reader_of_a_silent_server(server: FileServer, open_source: Open) -> None:
    server.gate_after, server.gate = MIB, threading.Event()
    with open_source(server.url, idle_timeout_s=60) as source:
        threading.Timer(0.1, source.abort).start()
        with pytest.raises(SourceError):
            source.read_at(2 * MIB, 10)


def test_silence_has_a_reason_of_its_own(server: FileServer, open_source: Open) -> None:
    server.gate_after, server.gate = 0, threading.Event()
    error = failure(open_source, server.url, idle_timeout_s=0.1, retries=1)
    assert error.reason == "SourceTimeout"
    assert "nothing for 0.1 s" in error.message


def test_a_server_that_says_when_to_ask_again_is_left_alone_until_then(server: FileServer, open_source: Open) -> None:
    server.statuses, server.retry_after = [429], "1"
    began, told = time.monotonic(), set[str]()
    with open_source(server.url, sums()) as source:
        eventually(lambda: told.add(source.trouble) or source.fetched_bytes, "bytes come at last")  # type: ignore[func-returns-value]
        assert time.monotonic() - began >= 1
        source.finish()
    assert "the server answers 429 Too Many Requests, trying again in 1 s (2 of 3)" in told


def test_a_server_that_drips_is_given_up(server: FileServer, open_source: Open) -> None:
    server.piece_bytes, server.bytes_s = 100, 1000
    error = failure(open_source, server.url, slow_timeout_s=0.5)
    assert (error.reason, error.retryable) == ("SourceTooSlow", True)
    assert "less than 10 KiB/s" in error.message


def test_a_reader_that_is_slow_is_no_slow_server(server: FileServer) -> None:
    # All of it is too little for the four seconds that pass, and enough for three, should the machine be busy.
    server.content, server.piece_bytes, server.gate_after = CONTENT[:38_000], 3500, 17_500
    server.gate.clear()
    settings = ImporterSettings(slow_timeout_s=0.5, source_addresses="any")
    with closing(HttpDownload(HttpOrigin(url=server.url), settings, verified=True)) as download:
        pieces = download.pieces()
        taken = next(pieces)
        began = time.monotonic()
        eventually(lambda: time.monotonic() - began > 4, "time passes")
        server.gate.set()
        assert taken + b"".join(pieces) == server.content


def test_a_server_that_drips_the_head_of_its_answer_is_given_up(open_source: Open) -> None:
    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
            while not ended.wait(0.05):
                connection.sendall(b"x")

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/disk.img"
        error = failure(open_source, url, slow_timeout_s=0.5, retries=0)
        ended.set()
        thread.join()
    assert (error.reason, error.retryable) == ("SourceTooSlow", True)


def test_what_is_read_ahead_is_asked_for_again(server: FileServer, open_source: Open) -> None:
    server.gate_after, server.gate = MIB, threading.Event()
    with open_source(server.url) as source:
        source.read_at(0, 1)
        server.statuses = [503, 500]
        assert source.read_ahead(2 * MIB, 1000) == CONTENT[2 * MIB : 2 * MIB + 1000]
        server.statuses = [503] * 3
        assert source.read_ahead(2 * MIB, 1000) is None
        server.gate.set()


def test_reading_ahead_outlives_the_trial_of_several_connections(server: FileServer, open_source: Open) -> None:
    server.content = random.Random(3).randbytes(48 * MIB)
    server.bytes_s, server.max_bodies = 16 * MIB, 2
    with open_source(server.url) as source:
        source.read_at(0, 1)
        assert source.read_ahead(24 * MIB, 24 * MIB) == server.content[24 * MIB :]
    asked = [headers["Range"] for headers in server.requests if "Range" in headers]
    assert asked.count(f"bytes={24 * MIB}-{48 * MIB - 1}") == 1
    assert len(asked) > 2, "more connections were tried"


def test_several_connections_where_one_is_slow(server: FileServer, open_source: Open) -> None:
    server.content = random.Random(3).randbytes(48 * MIB)
    server.bytes_s = 16 * MIB
    with open_source(server.url, sums(server.content), connections=4) as source:
        source.finish()
    assert server.most_bodies >= 3
    assert not any(headers.get("Range", "").endswith("-") for headers in server.requests), "to the end"


def test_a_server_that_allows_one_connection_gets_one(server: FileServer, open_source: Open) -> None:
    server.content = random.Random(3).randbytes(44 * MIB)
    server.bytes_s, server.max_bodies = 32 * MIB, 1
    with open_source(server.url, sums(server.content), retries=9) as source:
        source.finish()
    assert server.most_bodies == 1


def test_a_file_that_changes_under_several_connections(server: FileServer, open_source: Open) -> None:
    server.content = random.Random(3).randbytes(44 * MIB)
    server.bytes_s = 16 * MIB
    with open_source(server.url) as source:
        eventually(lambda: len(server.requests) > 2, "ranges are asked for")
        server.etag, server.content = '"v2"', bytes(44 * MIB)
        with pytest.raises(SourceError) as caught:
            source.finish()
    assert (caught.value.reason, caught.value.retryable) == ("SourceChanged", True)
