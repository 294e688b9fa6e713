"""`dvcr serve` over a bucket: death, garbage, redirects, and what it says when it cannot start."""

import os
import time
from pathlib import Path

import pytest
import requests

from dvcr.client.repository import Repository
from dvcr.client.retry import RetryPolicy
from dvcr.client.transport import Transport
from dvcr.digest import Digest
from dvcr.registry.registry import Registry
from dvcr.storage.s3 import S3Storage
from tests.support.app_server import AppServer
from tests.support.registry import RegistryServer
from tests.support.s3_server import S3Server, environment
from tests.support.waiting import eventually

MIB = 2**20


def push(http: requests.Session, repository: str, data: bytes) -> str:
    digest = str(Digest.of(data))
    answer = http.post(f"{repository}/blobs/uploads/", params={"digest": digest}, data=data)
    assert answer.status_code == 201, answer.text
    return f"{repository}/blobs/{digest}"


def test_an_upload_survives_kill_9(s3_server: S3Server, tmp_path: Path, http: requests.Session) -> None:
    data = os.urandom(30 * MIB)
    with RegistryServer(tmp_path, environment(s3_server.bucket())) as server:
        location = http.post(f"{server.url}/v2/a/blobs/uploads/").headers["Location"]
        assert http.patch(server.url + location, data=data[: 13 * MIB]).headers["Range"] == f"0-{13 * MIB - 1}"
        server.kill()
        server.start()
        assert http.get(server.url + location).headers["Range"] == f"0-{13 * MIB - 1}"
        digest = str(Digest.of(data))
        done = http.put(server.url + location, params={"digest": digest}, data=data[13 * MIB :])
        assert done.status_code == 201, done.text
        assert http.get(f"{server.url}/v2/a/blobs/{digest}").content == data
        assert server.stop() == 0


def test_our_client_outwaits_the_lease_of_a_dead_server(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvcr.storage.s3_upload.LEASE_S", 2.0)
    settings, data = s3_server.bucket(), os.urandom(MIB)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        time.sleep(0.5)

    with AppServer(Registry(S3Storage(settings))) as server:
        transport = Transport(server.url, retry=RetryPolicy(attempts=20, sleep=wait))
        upload = Repository(transport, "a").begin_upload()
        upload.append(data[:1000])
        # Another server takes bytes for the session and dies before it has told anybody.
        S3Storage(settings).resume_upload(upload.location.rpartition("/")[2]).append(b"lost")
        upload.append(data[1000:])
        upload.commit(Digest.of(data))
        assert waits
        assert set(waits) == {5.0}
        assert Repository(transport, "a").read_blob(Digest.of(data)) == data


def test_a_bad_digest_and_garbage_leave_an_empty_bucket(
    s3_server: S3Server, tmp_path: Path, http: requests.Session
) -> None:
    bucket = s3_server.bucket()
    limits = {"DVCR__REGISTRY__COLLECT_INTERVAL_S": "0.1", "DVCR__REGISTRY__COLLECT_GRACE_S": "6"}
    with RegistryServer(tmp_path, environment(bucket) | limits) as server:
        urls = [push(http, f"{server.url}/v2/a", os.urandom(size)) for size in (0, 10, 9 * MIB)]
        wrong = {"digest": str(Digest.of(b"other"))}
        assert http.post(f"{server.url}/v2/a/blobs/uploads/", params=wrong, data=b"x" * 9 * MIB).status_code == 400
        assert [http.get(url).status_code for url in urls] == [200] * 3
        eventually(lambda: [http.get(url).status_code for url in urls] == [404] * 3, "garbage collection")
        eventually(lambda: _objects(s3_server, bucket.bucket) == ["probe"], "an empty bucket")


def test_pulls_are_redirected_where_that_is_wanted(s3_server: S3Server, tmp_path: Path, http: requests.Session) -> None:
    redirect = {"DVCR__STORAGE__S3__REDIRECT": "true"}
    with RegistryServer(tmp_path, environment(s3_server.bucket()) | redirect) as server:
        data = os.urandom(100_000)
        url = push(http, f"{server.url}/v2/a", data)
        answer = http.get(url, allow_redirects=False)
        assert answer.status_code == 307
        assert answer.headers["Location"].startswith(s3_server.url)
        assert http.get(url).content == data
        assert http.get(url, headers={"Range": "bytes=5-9"}).content == data[5:10]
        assert http.get(url, headers={"Range": "bytes=100000-"}).status_code == 416
        assert http.head(url, allow_redirects=False).headers["Content-Length"] == "100000"
        assert http.get(url[:-1] + ("0" if url[-1] != "0" else "1")).status_code == 404


def test_it_says_why_it_cannot_start(s3_server: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server = RegistryServer(tmp_path, environment(s3_server.bucket()) | {"DVCR__STORAGE__S3__BUCKET": "absent"})
    with pytest.raises(AssertionError, match="did not start"):
        server.start()
    server.wait()
    assert "there is no bucket absent; make it, or correct storage.s3.bucket" in capfd.readouterr().err


def _objects(server: S3Server, bucket: str) -> list[str]:
    return [item["Key"] for item in server.client.list_objects_v2(Bucket=bucket).get("Contents", ())]
