"""The HTTP source against a server that breaks."""

import hashlib
import random
import shutil
import threading

import pytest

from dvcr.errors import IntegrityError, NoSpaceError, SourceError
from tests.support.file_server import FileServer, serving
from tests.support.http_source import CONTENT, MIB, Open, failure, sums, whole
from tests.support.waiting import eventually


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


def test_bytes_are_taken_as_they_are_whatever_the_server_says_of_them(server: FileServer, open_source: Open) -> None:
    server.extra = {"Content-Encoding": "gzip", "Content-Type": "text/html; charset=utf-8"}
    with open_source(server.url, sums()) as source:
        assert whole(source) == CONTENT
        source.finish()
    assert server.requests[0]["Accept-Encoding"] == "identity"
