"""Several processes behind one port, and several servers over one bucket, are one registry."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from dvcr.descriptor import IMAGE_CONFIG, IMAGE_MANIFEST
from dvcr.digest import Digest
from tests.support.registry import RegistryServer
from tests.support.s3_server import S3Server, environment
from tests.support.waiting import eventually

MIB = 2**20


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "root", {"DVCR__REGISTRY__WORKERS": "2"}) as server:
        yield server


@pytest.fixture(params=["workers over a folder", "replicas over a bucket"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """Addresses of two servers that are one registry, or twice the one of two workers."""
    if "workers" in request.param:
        server = request.getfixturevalue("workers")
        yield [server.url, server.url]
    else:
        s3_server: S3Server = request.getfixturevalue("s3_server")
        bucket = environment(s3_server.bucket())
        with RegistryServer(tmp_path, bucket) as one, RegistryServer(tmp_path, bucket) as other:
            yield [one.url, other.url]


def call(method: str, url: str, headers: dict[str, str] | None = None, **options: Any) -> requests.Response:
    """A request on a connection of its own, which any worker may get."""
    return requests.request(method, url, headers={"Connection": "close"} | (headers or {}), timeout=30, **options)


def image(config: str) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "config": {"mediaType": IMAGE_CONFIG, "digest": config, "size": 2},
            "layers": [],
        }
    ).encode()


def test_a_session_moves_between_servers(servers: list[str]) -> None:
    data = os.urandom(12 * MIB)
    location = call("POST", f"{servers[0]}/v2/a/blobs/uploads/").headers["Location"]
    for number in range(12):
        chunk = data[number * MIB : (number + 1) * MIB]
        headers = {"Content-Range": f"{number * MIB}-{(number + 1) * MIB - 1}"}
        answer = call("PATCH", servers[number % 2] + location, data=chunk, headers=headers)
        assert answer.status_code == 202, answer.text
        location = answer.headers["Location"]
    assert call("GET", servers[1] + location).headers["Range"] == f"0-{12 * MIB - 1}"
    digest = str(Digest.of(data))
    assert call("PUT", servers[1] + location, params={"digest": digest}).status_code == 201
    for server in servers:
        assert call("GET", f"{server}/v2/a/blobs/{digest}").content == data
        assert call("GET", server + location).status_code == 404


def test_what_one_server_does_the_others_see(servers: list[str]) -> None:
    config = str(Digest.of(b"{}"))
    pushed = call("POST", f"{servers[0]}/v2/a/blobs/uploads/", params={"digest": config}, data=b"{}")
    assert pushed.status_code == 201
    body, headers = image(config), {"Content-Type": IMAGE_MANIFEST}
    for number in range(6):
        tag = f"v{number}"
        put = call("PUT", f"{servers[number % 2]}/v2/a/manifests/{tag}", data=body, headers=headers)
        assert put.status_code == 201, put.text
        for server in servers:
            assert call("GET", f"{server}/v2/a/manifests/{tag}").content == body
            assert call("GET", f"{server}/v2/a/tags/list").json()["tags"] == [f"v{n}" for n in range(number + 1)]
    assert call("DELETE", f"{servers[1]}/v2/a/manifests/{Digest.of(body)}").status_code == 202
    for _ in range(4):
        for server in servers:
            assert call("GET", f"{server}/v2/a/manifests/v0").status_code == 404
            assert call("GET", f"{server}/v2/a/tags/list").json()["tags"] == []
    assert call("DELETE", f"{servers[0]}/v2/a/blobs/{config}").status_code == 202
    for server in servers:
        assert call("HEAD", f"{server}/v2/a/blobs/{config}").status_code == 404


def test_one_writer_of_a_session_wins(servers: list[str]) -> None:
    """Of parallel pushes into one session none mixes its bytes with another's."""
    bodies = [bytes([number]) * (9 * MIB) for number in range(4)]
    location = call("POST", f"{servers[0]}/v2/a/blobs/uploads/").headers["Location"]

    def push(number: int) -> int:
        headers = {"Content-Range": f"0-{9 * MIB - 1}"}
        return call("PATCH", servers[number % 2] + location, data=bodies[number], headers=headers).status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(push, range(4)))
    assert statuses.count(202) == 1, statuses
    assert set(statuses) <= {202, 409, 416}, statuses
    digest = str(Digest.of(bodies[statuses.index(202)]))
    assert call("PUT", servers[1] + location, params={"digest": digest}).status_code == 201


def test_parallel_pushes_of_one_image_to_all_servers(servers: list[str]) -> None:
    blobs = [os.urandom(MIB) for _ in range(4)]

    def push(number: int) -> int:
        data = blobs[number % 4]
        url = f"{servers[number % 2]}/v2/a/blobs/uploads/"
        return call("POST", url, params={"digest": str(Digest.of(data))}, data=data).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(push, range(24))) == {201}
    for data in blobs:
        assert call("GET", f"{servers[1]}/v2/a/blobs/{Digest.of(data)}").content == data


class TestWorkers:
    def test_both_work(self, workers: RegistryServer) -> None:
        def answered() -> float:
            text = call("GET", f"{workers.url}/metrics").text
            line = 'dvcr_registry_requests_total{method="GET",route="/v2/",status="200"} '
            return float(text.partition(line)[2].partition("\n")[0] or 0)

        for _ in range(40):
            call("GET", f"{workers.url}/v2/")
        assert answered() == answered() == 40  # whoever is asked tells of all

    def test_a_dead_worker_is_replaced(self, workers: RegistryServer) -> None:
        before = children(workers.pid)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: len(set(children(workers.pid)) - {before[0]}) == 2, "a new worker")
        os.kill(before[1], signal.SIGKILL)
        eventually(lambda: len(set(children(workers.pid)) - set(before)) == 2, "another new worker")

        def answers() -> bool:
            try:
                return call("GET", f"{workers.url}/v2/").status_code == 200
            except requests.ConnectionError:
                return False

        eventually(answers, "an answer")

    def test_sigterm_lets_requests_end(self, workers: RegistryServer) -> None:
        data = os.urandom(4 * MIB)
        location = call("POST", f"{workers.url}/v2/a/blobs/uploads/").headers["Location"]

        def body() -> Iterator[bytes]:
            yield data[:MIB]
            under_way = "dvcr_registry_uploads_under_way 1.0"
            eventually(lambda: under_way in call("GET", f"{workers.url}/metrics").text, "the request to arrive")
            os.kill(workers.pid, signal.SIGTERM)
            yield data[MIB:]

        digest = str(Digest.of(data))
        assert call("PUT", workers.url + location, params={"digest": digest}, data=body()).status_code == 201
        assert workers.wait() == 0

    def test_workers_do_not_outlive_a_killed_parent(self, workers: RegistryServer) -> None:
        pids = children(workers.pid)
        workers.kill()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of the workers")

    def test_a_wrong_setting_is_said_once(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").touch()
        server = RegistryServer(tmp_path / "file" / "root", {"DVCR__REGISTRY__WORKERS": "3"})
        with pytest.raises(AssertionError, match="did not start"):
            server.start()
        assert server.wait() == 1
        assert capfd.readouterr().err.count(str(server.root)) == 1
