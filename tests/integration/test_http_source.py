"""The HTTP source against a server that breaks."""

import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dvcr.config import ImporterSettings
from dvcr.errors import DvcrError, IntegrityError, NoSpaceError, SourceError
from dvcr.jobs.job import HttpOrigin
from importer.checksums import Checksums
from importer.kept import discard, sweep
from importer.sources.download import HttpDownload
from importer.sources.request import certificate_file
from importer.sources.spooled import SpooledSource
from importer.spool import Spool
from tests.support.certificates import self_signed
from tests.support.file_server import FileServer, serving
from tests.support.proxy_server import proxy
from tests.support.waiting import eventually

MIB = 2**20
CONTENT = random.Random(1).randbytes(3 * MIB + 17)
Open = Callable[..., AbstractContextManager[SpooledSource]]


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(CONTENT) as state:
        yield state


@pytest.fixture
def open_source(tmp_path: Path) -> Open:
    @contextmanager
    def opened(url: str, checksums: dict[str, str] | None = None, **options: Any) -> Iterator[SpooledSource]:
        given = {name: options.pop(name) for name in list(options) if name in ImporterSettings.model_fields}
        settings = ImporterSettings(
            **{"scratch_dir": tmp_path, "retries": 2, "idle_timeout_s": 5, "source_addresses": "any", **given}
        )
        window, job_id = options.pop("window_bytes", 64 * MIB), options.pop("job_id", "")
        download = HttpDownload(HttpOrigin(url=url, **options), settings, verified=bool(checksums))
        source = SpooledSource(
            download,
            Checksums(checksums or {}),
            Spool(tmp_path, job_id),
            max_bytes=settings.max_source_bytes,
            window_bytes=window,
        )
        try:
            yield source
        finally:
            source.close()
            discard(tmp_path, job_id)
            assert list(tmp_path.iterdir()) == [], "nothing is left in the scratch folder"

    return opened


def sums(content: bytes = CONTENT) -> dict[str, str]:
    return {name: hashlib.new(name, content).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")}


def whole(source: SpooledSource) -> bytes:
    return source.read_at(0, source.size_bytes())


def failure(open_source: Open, url: str, **options: Any) -> DvcrError:
    with open_source(url, **options) as source, pytest.raises(DvcrError) as caught:
        source.finish()
    return caught.value


def test_reads_any_range_and_checks_every_checksum(server: FileServer, open_source: Open) -> None:
    with open_source(server.url, sums()) as source:
        assert source.size_bytes() == len(CONTENT)
        assert source.read_at(MIB, 5000) == CONTENT[MIB : MIB + 5000]
        assert source.read_at(len(CONTENT) - 3, 100) == CONTENT[-3:]
        assert source.read_at(len(CONTENT) + 5, 100) == b""
        assert whole(source) == CONTENT
        source.finish()
    assert len(server.requests) == 1


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_wrong_checksum(server: FileServer, open_source: Open, algorithm: str) -> None:
    wrong = {**sums(), algorithm: hashlib.new(algorithm, b"other").hexdigest()}
    with open_source(server.url, wrong) as source, pytest.raises(IntegrityError, match=algorithm) as caught:
        source.finish()
    assert caught.value.reason == "ChecksumMismatch"


@pytest.mark.parametrize("style", ["chunked", "no length"])
def test_length_that_is_not_announced(server: FileServer, open_source: Open, style: str) -> None:
    server.chunked, server.length = style == "chunked", False
    with open_source(server.url, sums()) as source:
        assert source.size_bytes() == len(CONTENT)
        assert whole(source) == CONTENT
        source.finish()


def test_empty_file(server: FileServer, open_source: Open) -> None:
    server.content = b""
    with open_source(server.url) as source:
        assert source.size_bytes() == 0
        assert source.read_at(0, 10) == b""
        source.finish()


@pytest.mark.parametrize("chunked", [False, True])
def test_cut_connections_go_on_where_they_stopped(server: FileServer, open_source: Open, chunked: bool) -> None:
    server.cuts, server.chunked = [MIB, MIB // 2, 0, 100_000], chunked
    with open_source(server.url, sums()) as source:
        assert whole(source) == CONTENT
        source.finish()
    assert len(server.requests) == 5
    assert server.sent_bytes == len(CONTENT), "no byte was sent twice"
    assert all(r["If-Range"] == server.etag for r in server.requests[1:])


def test_last_modified_is_a_validator_too(server: FileServer, open_source: Open) -> None:
    server.etag, server.modified, server.cuts = "", "Wed, 21 Oct 2015 07:28:00 GMT", [MIB]
    with open_source(server.url) as source:
        assert whole(source) == CONTENT
    assert server.requests[1]["If-Range"] == server.modified


def test_weak_etag_is_compared_but_not_sent(server: FileServer, open_source: Open) -> None:
    server.etag, server.cuts = 'W/"v1"', [MIB]
    with open_source(server.url) as source:
        assert whole(source) == CONTENT
    assert "If-Range" not in server.requests[1]


def test_server_without_ranges_starts_over(server: FileServer, open_source: Open) -> None:
    server.ranges, server.cuts = False, [MIB]
    with open_source(server.url, sums()) as source:
        assert whole(source) == CONTENT
        source.finish()
    assert len(server.requests) == 2


def test_server_without_ranges_and_validators_starts_over_if_a_checksum_will_tell(
    server: FileServer, open_source: Open
) -> None:
    server.ranges, server.etag, server.cuts = False, "", [MIB]
    with open_source(server.url, sums()) as source:
        assert whole(source) == CONTENT
        source.finish()


def test_server_without_ranges_and_validators_cannot_be_trusted_to_start_over(
    server: FileServer, open_source: Open
) -> None:
    server.ranges, server.etag, server.cuts = False, "", [MIB]
    error = failure(open_source, server.url)
    assert (error.reason, error.retryable) == ("SourceInterrupted", True), "another attempt starts over"
    assert "1048576 bytes" in error.message


def test_a_server_that_always_cuts_is_given_up(server: FileServer, open_source: Open) -> None:
    server.ranges, server.cuts = False, [MIB] * 10
    error = failure(open_source, server.url)
    assert error.reason == "SourceInterrupted"
    assert len(server.requests) == 4, "one that brought bytes, and three in a row that brought no new one"


def test_failures_count_only_while_no_byte_comes(server: FileServer, open_source: Open) -> None:
    server.cuts = [100_000] * 12
    with open_source(server.url, sums()) as source:
        source.finish()


@pytest.mark.parametrize("change", ["etag", "size"])
def test_change_during_the_download(server: FileServer, open_source: Open, change: str) -> None:
    server.cuts = [MIB]
    server.gate_after, server.gate = MIB // 2, threading.Event()
    with open_source(server.url) as source:
        source.read_at(0, 1000)
        if change == "etag":
            server.etag = '"v2"'
        else:
            server.content, server.etag = CONTENT + b"more", '"v3"'
        server.gate.set()
        with pytest.raises(SourceError) as caught:
            source.finish()
    assert (caught.value.reason, caught.value.retryable) == ("SourceChanged", True), "another attempt gets the new one"


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, "SourceNotFound"), (410, "SourceNotFound"), (401, "SourceForbidden"), (403, "SourceForbidden")],
)
def test_refusals_are_final(server: FileServer, open_source: Open, status: int, reason: str) -> None:
    server.statuses = [status] * 5
    error = failure(open_source, server.url)
    assert error.reason == reason
    assert str(status) in error.message
    assert len(server.requests) == 1


def test_other_refusals(server: FileServer, open_source: Open) -> None:
    server.statuses = [418]
    assert failure(open_source, server.url).reason == "SourceUnavailable"


def test_overloaded_server_is_asked_again(server: FileServer, open_source: Open) -> None:
    server.statuses = [503, 429]
    with open_source(server.url, sums()) as source:
        source.finish()
    server.statuses = [500] * 9
    assert failure(open_source, server.url).reason == "SourceUnavailable"


def test_nobody_listens(open_source: Open) -> None:
    error = failure(open_source, "http://127.0.0.1:9/x", retries=0)
    assert error.reason == "SourceUnavailable"
    assert "refused" in error.message


@pytest.mark.parametrize("url", ["ftp://example.com/x", "no-url", "http://", "file:///etc/passwd"])
def test_addresses_that_are_none(open_source: Open, url: str) -> None:
    assert failure(open_source, url).reason == "SourceUnavailable"


def test_redirect_is_followed_and_a_loop_is_not(server: FileServer, open_source: Open) -> None:
    with serving(b"") as front:
        front.redirect = server.url
        with open_source(front.url) as source:
            assert whole(source) == CONTENT
        front.redirect = front.url
        assert "redirects" in failure(open_source, front.url).message


def test_silence_is_cut_and_resumed(server: FileServer, open_source: Open) -> None:
    server.gate_after, server.gate = MIB, threading.Event()
    with open_source(server.url, sums(), idle_timeout_s=0.2) as source:
        source.read_at(0, MIB)
        eventually(lambda: len(server.requests) >= 2, "the source asks again")
        server.gate.set()
        source.finish()


def test_trouble_is_told_with_the_attempt_and_forgotten_with_the_next_byte(
    server: FileServer, open_source: Open
) -> None:
    server.statuses = [503, 503, 503]
    server.gate_after, server.gate = MIB, threading.Event()
    told = set[str]()
    with open_source(server.url, sums(), retries=5, idle_timeout_s=60) as source:
        eventually(lambda: told.add(source.trouble) or source.fetched_bytes, "bytes come at last")  # type: ignore[func-returns-value]
        assert source.trouble == ""
        eventually(lambda: source.trouble.startswith("no bytes from the source for 5 s"), "the server falls silent")
        server.gate.set()
        source.finish()
        assert source.trouble == ""
    answered = "the server answers 503 Service Unavailable, trying again"
    assert {f"{answered} (2 of 6)", f"{answered} (3 of 6)", f"{answered} (4 of 6)"} <= told


def test_close_wakes_a_reader_of_a_silent_server(server: FileServer, open_source: Open) -> None:
    server.gate_after, server.gate = MIB, threading.Event()
    with open_source(server.url, idle_timeout_s=60) as source:
        threading.Timer(0.1, source.abort).start()
        with pytest.raises(SourceError):
            source.read_at(2 * MIB, 10)


def test_reader_that_releases_bounds_download_and_scratch(server: FileServer, open_source: Open) -> None:
    server.content = random.Random(2).randbytes(32 * MIB)
    window, step = 4 * MIB, MIB
    peak = 0
    with open_source(server.url, sums(server.content), window_bytes=window) as source:
        source.release(1)
        seen = hashlib.sha256()
        for offset in range(1, 32 * MIB, step):
            seen.update(source.read_at(offset, step))
            assert source.fetched_bytes <= offset + window + 2 * MIB
            peak = max(peak, source.spooled_bytes)
            source.release(min(offset + step, 32 * MIB))
        source.finish()
    assert seen.hexdigest() == hashlib.sha256(server.content[1:]).hexdigest()
    assert peak <= window + 4 * MIB


def test_source_that_does_not_fit_into_scratch_fails_before_it_is_fetched(
    server: FileServer, open_source: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10 * MIB, 9 * MIB, MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with open_source(server.url, window_bytes=MIB) as source:
        assert source.read_at(0, 1000) == CONTENT[:1000]
        with pytest.raises(NoSpaceError, match=str(len(CONTENT))):
            source.read_at(2 * MIB, 10)
    with open_source(server.url, sums(), window_bytes=MIB) as source:  # a reader that releases needs no more
        for offset in range(0, len(CONTENT), 100_000):
            assert source.read_at(offset, 100_000) == CONTENT[offset : offset + 100_000]
            source.release(min(offset + 100_000, len(CONTENT)))
        source.finish()


def test_tls(tmp_path_factory: pytest.TempPathFactory, open_source: Open) -> None:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = self_signed(folder, "localhost")
    with serving(CONTENT, certificate, key) as server:
        assert "caBundle" in failure(open_source, server.url).message
        with open_source(server.url, sums(), ca_bundle=certificate.read_text()) as source:
            source.finish()
        with open_source(server.url, sums(), insecure_skip_verify=True) as source:
            source.finish()
    with pytest.raises(SourceError, match="no PEM"), open_source(server.url, ca_bundle="nonsense"):
        pass


def test_certificates_that_a_killed_worker_left_are_swept(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    certificate, _ = self_signed(tmp_path_factory.mktemp("tls"), "localhost")
    code = f"""
import os
from pathlib import Path
from importer.sources.request import certificate_file
file = certificate_file({certificate.read_text()!r}, Path({str(tmp_path)!r}))
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = tmp_path.iterdir()
    used = certificate_file(certificate.read_text(), tmp_path)
    sweep(tmp_path, keep_s=3600)
    assert left.exists()
    sweep(tmp_path, keep_s=-60)
    assert list(tmp_path.iterdir()) == [Path(used.name)]
    used.close()


def test_where_a_redirect_leads_is_checked_again(open_source: Open, tmp_path_factory: pytest.TempPathFactory) -> None:
    certificate, key = self_signed(tmp_path_factory.mktemp("tls"), "localhost")
    trust = {"ca_bundle": certificate.read_text()}
    with serving(CONTENT) as back, serving(b"", certificate, key) as front:
        front.redirect = back.url
        error = failure(open_source, front.url, **trust)
        assert error.reason == "SourceRedirects"
        assert "from https" in error.message
        assert back.requests == []
        with open_source(front.url, sums(), redirect_to_http=True, **trust) as source:
            source.finish()
        front.redirect = "file:///etc/passwd"
        assert failure(open_source, front.url, **trust).reason == "SourceRedirects"
    with serving(b"") as front, serving(CONTENT, certificate, key) as back:
        front.redirect = back.url
        with open_source(front.url, sums(), **trust) as source:
            source.finish()


def test_credentials_go_to_the_server_of_the_url_only(server: FileServer, open_source: Open) -> None:
    secrets = {"username": "me", "password": "hunter2", "headers": {"X-Token": "hunter2"}}
    with serving(b"") as front:
        front.redirect = server.url
        with open_source(front.url, sums(), **secrets) as source:
            source.finish()
        assert front.requests[0]["Authorization"] == "Basic bWU6aHVudGVyMg=="
        assert front.requests[0]["X-Token"] == "hunter2"
        assert not {"Authorization", "X-Token"} & server.requests[0].keys()
        front.redirect, front.statuses = "", [401]
        error = failure(open_source, front.url + "?key=hunter2", **secrets)
        assert (error.reason, "secretRef" in error.message) == ("SourceForbidden", True)
        assert "hunter2" not in error.message


def test_credentials_in_the_url_are_used_and_not_repeated(server: FileServer, open_source: Open) -> None:
    url = server.url.replace("://", "://me:hunter%32@")
    with open_source(url, sums()) as source:
        source.finish()
    assert server.requests[0]["Authorization"] == "Basic bWU6aHVudGVyMg=="
    server.statuses = [500] * 9
    assert "hunter" not in failure(open_source, url).message


def test_netrc_is_left_alone(
    server: FileServer, open_source: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path.parent / f"{tmp_path.name}.netrc"
    netrc.write_text("machine localhost login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with open_source(server.url, sums()) as source:
        source.finish()
    assert "Authorization" not in server.requests[0]


def test_bytes_are_taken_as_they_are_whatever_the_server_says_of_them(server: FileServer, open_source: Open) -> None:
    server.extra = {"Content-Encoding": "gzip", "Content-Type": "text/html; charset=utf-8"}
    with open_source(server.url, sums()) as source:
        assert whole(source) == CONTENT
        source.finish()
    assert server.requests[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("setting", ["private", "public"])
def test_this_machine_is_out_of_bounds_unless_it_is_opened(
    server: FileServer, open_source: Open, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1" if host.endswith(".test") else host, *a, **k)
    )
    for url in (server.url, server.url.replace("localhost", "127.1"), server.url.replace("localhost", "inside.test")):
        error = failure(open_source, url, source_addresses=setting)
        assert error.reason == "SourceAddressRefused"
    with serving(b"") as front:  # a name that is let through, and leads back here
        front.redirect = server.url
        error = failure(open_source, front.url, source_addresses=setting)
        assert error.reason == "SourceAddressRefused"
    assert server.requests == []


def test_proxy_of_the_environment(server: FileServer, open_source: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.url.replace("localhost", "127.0.0.1")
    with proxy() as (address, asked):
        monkeypatch.setenv("http_proxy", address)
        with open_source(url, sums()) as source:
            source.finish()
        assert asked == [url]
        assert failure(open_source, url, source_addresses="private").reason == "SourceAddressRefused"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with open_source(url, sums()) as source:
            source.finish()
        assert asked == [url]


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


def abandoned(tmp_path: Path, url: str, fetched: int, **checksums: str) -> None:
    """What a worker leaves behind that was killed when its job had fetched that many bytes."""
    code = f"""
import os
from pathlib import Path
from dvcr.config import ImporterSettings
from dvcr.jobs.job import HttpOrigin
from importer.sources.opening import open_source
settings = ImporterSettings(scratch_dir=Path({str(tmp_path)!r}), source_addresses="any")
source = open_source(HttpOrigin(url={url!r}), {checksums!r}, None, settings, job_id="job-1")
source.read_at({fetched} - 1, 1)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)


@pytest.fixture
def large(server: FileServer) -> FileServer:
    """A file larger than the window, of which a body brings 40 MiB before it stops."""
    server.content = random.Random(5).randbytes(44 * MIB)
    server.gate_after, server.gate = 40 * MIB, threading.Event()
    return server


def test_the_next_delivery_goes_on_where_a_killed_worker_was(
    large: FileServer, open_source: Open, tmp_path: Path
) -> None:
    abandoned(tmp_path, large.url, 40 * MIB)
    assert len(list(tmp_path.iterdir())) == 2, "the bytes, and what proves whose they are"
    large.gate.set()
    large.requests.clear()
    sent = large.sent_bytes
    with open_source(large.url, sums(large.content), job_id="job-1") as source:
        assert source.read_at(43 * MIB, MIB) == large.content[43 * MIB :]
        assert source.read_at(MIB, MIB) == large.content[MIB : 2 * MIB]
        source.finish()
    assert large.sent_bytes - sent < 6 * MIB
    assert large.requests[0]["If-Range"] == '"v1"'


def test_a_server_that_is_away_for_a_while_does_not_end_what_was_kept(
    large: FileServer, open_source: Open, tmp_path: Path
) -> None:
    abandoned(tmp_path, large.url, 40 * MIB)
    large.gate.set()
    large.statuses = [503] * 3
    with open_source(large.url, job_id="job-1", retries=2) as source:
        with pytest.raises(SourceError) as caught:
            source.finish()
        assert (caught.value.reason, caught.value.retryable) == ("SourceUnavailable", True)
        (data,) = tmp_path.glob("*.data")
        assert data.stat().st_size >= 40 * MIB
        source.close()
        sent, large.statuses = large.sent_bytes, [503] * 2
        with open_source(large.url, sums(large.content), job_id="job-1", retries=2) as following:
            following.finish()
        assert large.sent_bytes - sent < 6 * MIB


@pytest.mark.parametrize("what", ["changed", "no ranges", "another boot", "damaged journal"])
def test_what_cannot_be_proven_to_be_the_same_is_fetched_anew(
    large: FileServer, open_source: Open, tmp_path: Path, what: str
) -> None:
    abandoned(tmp_path, large.url, 40 * MIB)
    large.gate.set()
    (journal,) = tmp_path.glob("*.json")
    if what == "changed":
        large.content, large.etag = large.content[::-1], '"v2"'
    elif what == "no ranges":
        large.ranges = False
    elif what == "another boot":
        journal.write_text(journal.read_text().replace('"boot": "', '"boot": "x'))
    else:
        journal.write_text("{")
    with open_source(large.url, sums(large.content), job_id="job-1") as source:
        assert whole(source) == large.content
        source.finish()


def test_kept_bytes_go_by_age_and_with_their_job(large: FileServer, tmp_path: Path) -> None:
    abandoned(tmp_path, large.url, 36 * MIB)
    sweep(tmp_path, keep_s=3600)
    assert len(list(tmp_path.iterdir())) == 2
    discard(tmp_path, "another job")
    assert len(list(tmp_path.iterdir())) == 2
    (data,) = tmp_path.glob("*.data")
    os.utime(data, (0, 0))
    sweep(tmp_path, keep_s=3600)
    assert list(tmp_path.iterdir()) == []
    abandoned(tmp_path, large.url, 36 * MIB)
    discard(tmp_path, "job-1")
    assert list(tmp_path.iterdir()) == []


def test_two_deliveries_at_once_do_not_share_a_file(server: FileServer, open_source: Open, tmp_path: Path) -> None:
    with open_source(server.url, sums(), job_id="job-1") as first:
        sweep(tmp_path, keep_s=0)  # in use: stays
        second = Spool(tmp_path, "job-1")
        second.write(0, b"other")
        second.close()
        assert whole(first) == CONTENT
        first.finish()
