"""What a killed worker leaves of an HTTP source: the next delivery goes on with it, or it is swept."""

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dvcr.errors import SourceError
from importer.kept import discard, sweep
from importer.sources.request import certificate_file
from importer.spool import Spool
from tests.support.certificates import self_signed
from tests.support.file_server import FileServer
from tests.support.http_source import CONTENT, MIB, Open, sums, whole


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
