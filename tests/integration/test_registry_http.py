"""The registry over real HTTP: the requests of distribution-spec, and bad ones."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from email.policy import HTTP
from pathlib import Path

import pytest
import requests

from dvcr.descriptor import IMAGE_CONFIG, IMAGE_INDEX, IMAGE_MANIFEST
from dvcr.digest import Digest
from tests.support.registry import RegistryServer
from tests.support.s3_server import environment
from tests.support.waiting import eventually


@pytest.fixture(scope="module", params=["filesystem", "s3"])
def registry_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a registry over each kind of store."""
    if request.param == "filesystem":
        yield request.getfixturevalue("registry_server").url
    else:
        bucket = environment(request.getfixturevalue("s3_server").bucket())
        with RegistryServer(tmp_path_factory.mktemp("unused"), bucket) as server:
            yield server.url


@pytest.fixture
def repository(registry_url: str, request: pytest.FixtureRequest) -> str:
    """Address of a repository of the test's own."""
    return f"{registry_url}/v2/{Digest.of(request.node.nodeid.encode()).hex[:16]}/images"


def begin(http: requests.Session, repository: str) -> str:
    answer = http.post(f"{repository}/blobs/uploads/")
    assert answer.status_code == 202
    assert answer.headers["Range"] == "0-0"
    return repository[: repository.index("/v2/")] + answer.headers["Location"]


def push(http: requests.Session, repository: str, data: bytes) -> str:
    digest = str(Digest.of(data))
    answer = http.put(begin(http, repository), params={"digest": digest}, data=data)
    assert answer.status_code == 201
    return digest


def error_code(answer: requests.Response) -> str:
    return str(answer.json()["errors"][0]["code"])


def image(config: str, size: int) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "config": {"mediaType": IMAGE_CONFIG, "digest": config, "size": size},
            "layers": [],
        }
    ).encode()


class TestBlobs:
    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    @pytest.mark.parametrize("size", [0, 1, 4 * 2**20, 9 * 2**20 + 1])
    def test_post_then_put(self, http: requests.Session, repository: str, size: int, algorithm: str) -> None:
        data = os.urandom(size)
        digest = str(Digest.of(data, algorithm))
        answer = http.put(begin(http, repository), params={"digest": digest}, data=data)
        assert answer.status_code == 201
        assert answer.headers["Docker-Content-Digest"] == digest
        got = http.get(f"{repository}/blobs/{digest}")
        assert got.content == data
        assert got.headers["Docker-Content-Digest"] == digest
        head = http.head(f"{repository}/blobs/{digest}")
        assert (head.status_code, head.headers["Content-Length"]) == (200, str(size))

    def test_post_alone(self, http: requests.Session, repository: str) -> None:
        digest = str(Digest.of(b"data"))
        assert http.post(f"{repository}/blobs/uploads/", params={"digest": digest}, data=b"data").status_code == 201
        assert http.get(f"{repository}/blobs/{digest}").content == b"data"

    def test_a_stream_without_length(self, http: requests.Session, repository: str) -> None:
        parts = [os.urandom(700_000) for _ in range(20)]
        answer = http.patch(begin(http, repository), data=iter(parts))
        assert answer.status_code == 202
        assert answer.headers["Range"] == f"0-{20 * 700_000 - 1}"
        url = repository[: repository.index("/v2/")] + answer.headers["Location"]
        digest = str(Digest.of(b"".join(parts)))
        assert http.put(url, params={"digest": digest}).status_code == 201
        assert http.get(f"{repository}/blobs/{digest}").content == b"".join(parts)

    def test_chunks_in_order_and_out_of_order(self, http: requests.Session, repository: str) -> None:
        url = begin(http, repository)
        assert http.patch(url, data=b"01234", headers={"Content-Range": "0-4"}).status_code == 202
        wrong = http.patch(url, data=b"789", headers={"Content-Range": "7-9"})
        assert (wrong.status_code, wrong.headers["Range"]) == (416, "0-4")
        assert http.get(url).headers["Range"] == "0-4"
        digest = str(Digest.of(b"0123456789"))
        late = http.put(url, params={"digest": digest}, data=b"89", headers={"Content-Range": "8-9"})
        assert late.status_code == 416
        last = http.put(url, params={"digest": digest}, data=b"56789", headers={"Content-Range": "5-9"})
        assert last.status_code == 201
        assert http.get(url).status_code == 404

    def test_ranges(self, http: requests.Session, repository: str) -> None:
        data = os.urandom(100_000)
        url = f"{repository}/blobs/{push(http, repository, data)}"
        answer = http.get(url, headers={"Range": "bytes=1000-1999"})
        assert (answer.status_code, answer.content) == (206, data[1000:2000])
        assert answer.headers["Content-Range"] == "bytes 1000-1999/100000"
        assert http.get(url, headers={"Range": "bytes=-10"}).content == data[-10:]
        beyond = http.get(url, headers={"Range": "bytes=100000-"})
        assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, "bytes */100000")
        assert http.get(url, headers={"Range": "bytes=-0"}).status_code == 416
        garbage = http.get(url, headers={"Range": "bytes=garbage"})
        assert (garbage.status_code, garbage.content) == (200, data)

    def test_several_ranges_come_as_parts(self, http: requests.Session, repository: str) -> None:
        data = os.urandom(100_000)
        url = f"{repository}/blobs/{push(http, repository, data)}"
        answer = http.get(url, headers={"Range": "bytes=-10,0-99,50-199,70000-79999"})
        assert answer.status_code == 206
        assert "Content-Range" not in answer.headers
        message = message_from_bytes(
            b"Content-Type: " + answer.headers["Content-Type"].encode() + b"\r\n\r\n" + answer.content, policy=HTTP
        )
        parts = {part["Content-Range"]: part.get_payload(decode=True) for part in message.iter_parts()}
        assert parts == {
            "bytes 0-199/100000": data[:200],
            "bytes 70000-79999/100000": data[70000:80000],
            "bytes 99990-99999/100000": data[-10:],
        }
        one = http.get(url, headers={"Range": "bytes=0-9,10-19,200000-"})
        assert (one.status_code, one.headers["Content-Range"]) == (206, "bytes 0-19/100000")
        assert one.content == data[:20]
        # The connection goes on.
        assert http.get(url).content == data

    def test_a_range_of_another_version_and_a_copy_that_is_there(self, http: requests.Session, repository: str) -> None:
        data = os.urandom(1000)
        url = f"{repository}/blobs/{push(http, repository, data)}"
        etag = http.head(url).headers["ETag"]
        assert http.get(url, headers={"Range": "bytes=0-9", "If-Range": etag}).content == data[:10]
        for other in ('"another"', f"W/{etag}", "Mon, 23 Nov 2026 00:00:00 GMT"):
            answer = http.get(url, headers={"Range": "bytes=0-9", "If-Range": other})
            assert (answer.status_code, answer.content) == (200, data)
        cached = http.get(url, headers={"If-None-Match": f'"x", {etag}'})
        assert (cached.status_code, cached.content) == (304, b"")

    def test_mount_with_and_without_from(self, http: requests.Session, repository: str) -> None:
        digest = push(http, repository, os.urandom(10))
        uploads, name = f"{repository}-2/blobs/uploads/", repository.partition("/v2/")[2]
        missing = http.post(uploads, params={"mount": digest, "from": "no/such"})
        assert (missing.status_code, "Location" in missing.headers) == (202, True)
        assert http.post(uploads, params={"mount": digest, "from": name}).status_code == 201
        assert http.post(f"{repository}-3/blobs/uploads/", params={"mount": digest}).status_code == 201
        assert http.head(f"{repository}-3/blobs/{digest}").status_code == 200
        unknown = http.post(uploads, params={"mount": str(Digest.of(os.urandom(9)))})
        assert unknown.status_code == 202

    def test_delete(self, http: requests.Session, repository: str) -> None:
        url = f"{repository}/blobs/{push(http, repository, b'x')}"
        assert http.delete(url).status_code == 202
        assert http.get(url).status_code == 404
        assert error_code(http.delete(url)) == "BLOB_UNKNOWN"

    def test_a_wrong_digest_ends_the_upload(self, http: requests.Session, repository: str) -> None:
        url = begin(http, repository)
        answer = http.put(url, params={"digest": str(Digest.of(b"other"))}, data=b"data")
        assert (answer.status_code, error_code(answer)) == (400, "DIGEST_INVALID")
        assert error_code(http.get(url)) == "BLOB_UPLOAD_UNKNOWN"

    def test_an_upload_can_be_cancelled(self, http: requests.Session, repository: str) -> None:
        url = begin(http, repository)
        http.patch(url, data=b"data")
        assert http.delete(url).status_code == 204
        assert http.patch(url, data=b"more").status_code == 404

    def test_parallel_pushes_of_one_blob(self, registry_url: str, repository: str) -> None:
        data = os.urandom(3 * 2**20)

        def run() -> str:
            with requests.Session() as session:
                return push(session, repository, data)

        with ThreadPoolExecutor(8) as pool:
            pushes = [pool.submit(run) for _ in range(8)]
        assert {future.result() for future in pushes} == {str(Digest.of(data))}

    def test_encoded_bodies_are_stored_as_sent(self, http: requests.Session, repository: str) -> None:
        data = b"not really gzip"
        digest = str(Digest.of(data))
        answer = http.put(
            begin(http, repository), params={"digest": digest}, data=data, headers={"Content-Encoding": "gzip"}
        )
        assert answer.status_code == 201


class TestManifests:
    def test_exact_bytes_and_type(self, http: requests.Session, repository: str) -> None:
        body = image(push(http, repository, b"{}"), 2).replace(b", ", b",\n\t")
        headers = {"Content-Type": IMAGE_MANIFEST}
        put = http.put(f"{repository}/manifests/v1", data=body, headers=headers)
        digest = str(Digest.of(body))
        assert (put.status_code, put.headers["Docker-Content-Digest"]) == (201, digest)
        for reference in ("v1", digest):
            got = http.get(f"{repository}/manifests/{reference}")
            assert got.content == body
            assert got.headers["Content-Type"] == IMAGE_MANIFEST
            assert got.headers["Docker-Content-Digest"] == digest
            head = http.head(f"{repository}/manifests/{reference}")
            assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(body)))
        assert http.get(f"{repository}/tags/list").json()["tags"] == ["v1"]
        assert http.delete(f"{repository}/manifests/{digest}").status_code == 202
        assert error_code(http.get(f"{repository}/manifests/v1")) == "MANIFEST_UNKNOWN"
        assert http.get(f"{repository}/tags/list").json()["tags"] == []

    def test_missing_blobs_and_size(self, http: requests.Session, repository: str) -> None:
        headers = {"Content-Type": IMAGE_MANIFEST}
        missing = http.put(f"{repository}/manifests/v1", data=image(str(Digest.of(b"?")), 1), headers=headers)
        assert (missing.status_code, error_code(missing)) == (404, "MANIFEST_BLOB_UNKNOWN")
        large = http.put(f"{repository}/manifests/v1", data=b" " * (4 * 2**20 + 1), headers=headers)
        assert (large.status_code, error_code(large)) == (413, "SIZE_INVALID")

    def test_referrers(self, http: requests.Session, repository: str) -> None:
        config = push(http, repository, b"{}")
        subject = str(Digest.of(b"a subject that never came"))
        value = json.loads(image(config, 2)) | {
            "subject": {"mediaType": IMAGE_MANIFEST, "digest": subject, "size": 3},
            "artifactType": "a/b",
        }
        put = http.put(f"{repository}/manifests/v1", json=value, headers={"Content-Type": IMAGE_MANIFEST})
        assert put.headers["OCI-Subject"] == subject
        answer = http.get(f"{repository}/referrers/{subject}", params={"artifactType": "a/b"})
        assert answer.headers["Content-Type"] == IMAGE_INDEX
        assert answer.headers["OCI-Filters-Applied"] == "artifactType"
        assert [item["artifactType"] for item in answer.json()["manifests"]] == ["a/b"]
        assert http.get(f"{repository}/referrers/{Digest.of(b'')}").json()["manifests"] == []
        assert http.get(f"{repository}/referrers/nonsense").status_code == 400


class TestLists:
    def test_tags_and_repositories_in_pages(self, http: requests.Session, repository: str, registry_url: str) -> None:
        body = image(push(http, repository, b"{}"), 2)
        for tag in "dbca":
            http.put(f"{repository}/manifests/{tag}", data=body, headers={"Content-Type": IMAGE_MANIFEST})
        url, tags = f"{repository}/tags/list?n=3", []
        while url:
            answer = http.get(url)
            tags += answer.json()["tags"]
            link = answer.links.get("next")
            url = registry_url + link["url"] if link else ""
        assert tags == ["a", "b", "c", "d"]
        none = http.get(f"{repository}/tags/list?n=0")
        assert (none.json()["tags"], none.links) == ([], {})
        assert http.get(f"{repository}/tags/list?n=x").status_code == 400
        assert repository.partition("/v2/")[2] in http.get(f"{registry_url}/v2/_catalog").json()["repositories"]


class TestHostileInput:
    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/v2/UPPER/tags/list", 400),
            ("/v2/a/../../etc/passwd/manifests/x", 400),
            ("/v2/a%2f..%2f..%2fb/tags/list", 400),
            ("/v2/a/manifests/..", 400),
            ("/v2/a/manifests/%2e%2e%2fx", 400),
            ("/v2/a/manifests/sha256:zz", 400),
            ("/v2/a/blobs/sha256:..", 400),
            ("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400),
            ("/v2/a/blobs/uploads/..%2f..%2fx", 404),
            ("/v2/a/blobs/uploads/%00", 404),
            ("/v2/a/no/such/route", 404),
        ],
    )
    def test_is_refused_as_an_oci_error(self, registry_url: str, path: str, status: int) -> None:
        host, _, port = registry_url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection:  # a client library would tidy the path up
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert int(answer.split()[1]) in (status, 400)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["errors"]

    def test_health_metrics_and_request_ids(self, http: requests.Session, registry_url: str) -> None:
        assert http.get(f"{registry_url}/healthz").status_code == 200
        assert http.get(f"{registry_url}/readyz").status_code == 200
        assert http.get(f"{registry_url}/v2/", headers={"X-Request-ID": "mine"}).headers["X-Request-ID"] == "mine"
        assert "\n" not in http.get(f"{registry_url}/v2/", headers={"X-Request-ID": "a b"}).headers["X-Request-ID"]
        metrics = http.get(f"{registry_url}/metrics").text
        assert 'dvcr_registry_requests_total{method="GET",route="/v2/",status="200"}' in metrics


class TestFaults:
    def test_an_upload_survives_kill_9(self, fresh_registry: RegistryServer, http: requests.Session) -> None:
        data = os.urandom(12 * 2**20)
        location = begin(http, f"{fresh_registry.url}/v2/a").removeprefix(fresh_registry.url)
        answer = http.patch(fresh_registry.url + location, data=data[: 5 * 2**20])
        assert answer.status_code == 202
        # A second chunk is under way, without an answer yet, when the server dies.
        with socket.create_connection(("127.0.0.1", int(fresh_registry.url.rpartition(":")[2]))) as connection:
            head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {7 * 2**20}\r\n\r\n"
            connection.sendall(head.encode() + data[5 * 2**20 : 10 * 2**20])
            fresh_registry.kill()
        fresh_registry.start()
        status = http.get(fresh_registry.url + location)
        assert status.status_code == 204
        kept = int(status.headers["Range"].partition("-")[2]) + 1
        assert kept >= 5 * 2**20
        digest = str(Digest.of(data))
        done = http.put(fresh_registry.url + location, params={"digest": digest}, data=data[kept:])
        assert done.status_code == 201
        assert http.get(f"{fresh_registry.url}/v2/a/blobs/{digest}").content == data

    def test_an_upload_goes_on_after_a_cut_connection(
        self, fresh_registry: RegistryServer, http: requests.Session
    ) -> None:
        location = begin(http, f"{fresh_registry.url}/v2/a").removeprefix(fresh_registry.url)
        with socket.create_connection(("127.0.0.1", int(fresh_registry.url.rpartition(":")[2]))) as connection:
            connection.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n0123".encode())
        data = b"0123456789"
        while True:  # until the server has noticed the cut, the session is busy or may still grow
            answer = http.get(fresh_registry.url + location)
            kept = 4 if answer.headers["Range"] == "0-3" else 0
            done = http.put(
                fresh_registry.url + location,
                params={"digest": str(Digest.of(data))},
                data=data[kept:],
                headers={"Content-Range": f"{kept}-9"},
            )
            if done.status_code not in (409, 416):
                break
        assert done.status_code == 201, done.text

    def test_a_full_disk_is_told_and_leaves_nothing(self, tmp_path: Path, http: requests.Session) -> None:
        # The limit on the size of a file fails writes as a full disk does, without needing one.
        limited = ("/bin/sh", "-c", 'ulimit -f 4096; exec "$@"', "sh")
        with RegistryServer(tmp_path / "root", command=limited) as server:
            data = os.urandom(10 * 2**20)
            answer = http.put(begin(http, f"{server.url}/v2/a"), params={"digest": str(Digest.of(data))}, data=data)
            assert (answer.status_code, error_code(answer)) == (507, "INSUFFICIENT_STORAGE")
            assert list((server.root / ".uploads").iterdir()) == []
            assert server.stored_bytes() == 0
            push(http, f"{server.url}/v2/a", b"a small one still fits")

    def test_a_silent_client_is_given_up_and_may_come_back(self, tmp_path: Path, http: requests.Session) -> None:
        environment = {"DVCR__REGISTRY__UPLOAD_IDLE_TIMEOUT_S": "0.2"}
        with RegistryServer(tmp_path / "root", environment) as server:
            location = begin(http, f"{server.url}/v2/a").removeprefix(server.url)
            with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
                connection.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n0123".encode())
                assert connection.recv(100).startswith(b"HTTP/1.1 408")
            assert http.get(server.url + location).headers["Range"] == "0-3"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_stops_cleanly(self, fresh_registry: RegistryServer, number: signal.Signals) -> None:
        os.kill(fresh_registry.pid, number)
        assert fresh_registry.wait() == 0

    def test_garbage_goes_on_schedule(self, tmp_path: Path, http: requests.Session) -> None:
        environment = {"DVCR__REGISTRY__COLLECT_INTERVAL_S": "0.05", "DVCR__REGISTRY__COLLECT_GRACE_S": "0.3"}
        with RegistryServer(tmp_path / "root", environment) as server:
            digest = push(http, f"{server.url}/v2/a", b"orphan")
            url = f"{server.url}/v2/a/blobs/{digest}"
            eventually(lambda: http.get(url).status_code == 404, "the link goes")
            eventually(lambda: not server.stored_bytes(), "the blob goes")
            eventually(lambda: not list(server.root.glob("catalog/*")), "the repository goes")

            # A pass is counted when it ends, which is after what it removed is gone.
            def metrics() -> str:
                return http.get(f"{server.url}/metrics").text

            eventually(lambda: "dvcr_registry_freed_blobs_total 1.0" in metrics(), "the count of blobs")
            assert "dvcr_registry_freed_bytes_total 6.0" in metrics()
            assert 'dvcr_registry_collections_total{result="failed"}' not in metrics()

    def test_the_access_log_is_a_line_of_json_for_each_request(
        self, tmp_path: Path, http: requests.Session, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with RegistryServer(tmp_path / "root", {"DVCR__LOG__LEVEL": "info", "DVCR__LOG__STYLE": "json"}) as server:
            digest = Digest.of(b"data")
            push = {"method": "POST", "path": f"/v2/a/blobs/uploads/?digest={str(digest).replace(':', '%3A')}"}
            http.post(server.url + push["path"], data=b"data", headers={"X-Request-ID": "mine"})
            http.get(f"{server.url}/v2/a/blobs/{digest}")
        lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
        pushed, pulled = (line for line in lines if line.get("event") == "request")
        shown = ("request_id", "method", "path", "status", "remote", "received_bytes", "sent_bytes")
        assert [pushed[name] for name in shown] == ["mine", "POST", push["path"], 201, "127.0.0.1", 4, 0]
        assert [pulled[name] for name in shown[1:]] == ["GET", f"/v2/a/blobs/{digest}", 200, "127.0.0.1", 0, 4]
