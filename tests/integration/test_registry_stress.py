"""Pushes, mounts, tags, pulls, deletions and collections all at once; afterwards every image is whole, and nothing else
is left.
"""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import requests

from dvcr.descriptor import IMAGE_CONFIG, IMAGE_MANIFEST, OCTET_STREAM, Descriptor
from dvcr.digest import Digest
from dvcr.registry.registry import Registry
from dvcr.storage import paths
from dvcr.storage.driver import StorageDriver
from dvcr.storage.filesystem import FilesystemStorage
from dvcr.storage.s3 import S3Storage
from tests.support.app_server import AppServer
from tests.support.memory_storage import MemoryStorage

# Longer than any one request takes, which is what collection rests on, and short enough to collect all the time.
GRACE = timedelta(seconds=2)
CLIENTS = 6
REPOSITORIES = [f"stress/r{number}" for number in range(4)]
TAGS = [f"t{number}" for number in range(6)]
SLOW = (pytest.mark.slow, pytest.mark.timeout(1800))


@pytest.fixture(
    params=[
        ("filesystem", 160),
        ("memory", 80),
        ("s3", 20),
        pytest.param(("filesystem", 1000), marks=SLOW),
        pytest.param(("s3", 500), marks=SLOW),
    ],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[StorageDriver, int]:
    """The storage, and how many actions each client takes on it."""
    kind, actions = request.param
    if kind == "s3":
        return S3Storage(request.getfixturevalue("s3_server").bucket()), actions
    return (FilesystemStorage(tmp_path) if kind == "filesystem" else MemoryStorage()), actions


class Client(threading.local):
    """One that pushes images of blobs that others push, mount and lose at the same time."""

    def __init__(self, url: str, seed: int) -> None:
        self.http = requests.Session()
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self._url = url

    def url(self, repository: str, rest: str) -> str:
        return f"{self._url}/v2/{repository}/{rest}"

    def act(self, step: int) -> None:
        repository = self.random.choice(REPOSITORIES)
        action: Callable[[str, int], None] = self.random.choices(
            [self.push_image, self.tag, self.pull, self.delete, self.leave_garbage], [5, 2, 4, 3, 2]
        )[0]
        action(repository, step)
        self.done[action.__name__] += 1

    def blob(self, step: int) -> bytes:
        # A set that is shared by all, and moves on: what few steps ago was in every image is garbage by and by.
        return b"blob %d " % (step // 10 + self.random.randrange(12)) * 200

    def push_image(self, repository: str, step: int) -> None:
        layers = [self.blob(step) for _ in range(self.random.randint(1, 4))]
        descriptors = [Descriptor(OCTET_STREAM, Digest.of(layer), len(layer)).to_json() for layer in layers]
        config = Descriptor(IMAGE_CONFIG, Digest.of(b"{}"), 2).to_json()
        manifest = {"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": config, "layers": descriptors}
        for _ in range(10):
            for layer in (b"{}", *layers):
                self.push_blob(repository, layer)
            answer = self.put_manifest(repository, self.random.choice(TAGS), json.dumps(manifest).encode())
            if answer.status_code == 201:
                return
            # A client that was slower than the grace is told, and sends what is missing.
            assert answer.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN", answer.text
        pytest.fail("the image could not be pushed")

    def put_manifest(self, repository: str, tag: str, body: bytes) -> requests.Response:
        headers = {"Content-Type": IMAGE_MANIFEST}
        return self.http.put(self.url(repository, f"manifests/{tag}"), data=body, headers=headers)

    def push_blob(self, repository: str, data: bytes) -> None:
        digest = str(Digest.of(data))
        uploads = self.url(repository, "blobs/uploads/")
        if self.random.random() < 0.6 and self.http.head(self.url(repository, f"blobs/{digest}")).status_code == 200:
            return
        if self.random.random() < 0.6:
            source = {} if self.random.random() < 0.5 else {"from": self.random.choice(REPOSITORIES)}
            answer = self.http.post(uploads, params={"mount": digest} | source)
            if answer.status_code == 201:
                return
        else:
            answer = self.http.post(uploads)
        assert answer.status_code == 202, answer.text
        answer = self.http.put(self._url + answer.headers["Location"], params={"digest": digest}, data=data)
        assert answer.status_code == 201, answer.text

    def tag(self, repository: str, _step: int) -> None:
        found = self.http.get(self.url(repository, f"manifests/{self.random.choice(TAGS)}"))
        if found.status_code == 200:
            answer = self.put_manifest(repository, self.random.choice(TAGS), found.content)
            if answer.status_code != 201:  # only if it was deleted meanwhile, and its blobs collected
                assert answer.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN", answer.text

    def pull(self, repository: str, _step: int) -> None:
        found = self.http.get(self.url(repository, f"manifests/{self.random.choice(TAGS)}"))
        if found.status_code == 200:
            self.check_blobs(repository, found.headers["Docker-Content-Digest"], found.json())

    def check_blobs(self, repository: str, manifest_digest: str, manifest: dict[str, list[dict[str, str]]]) -> int:
        for layer in manifest["layers"]:
            url = self.url(repository, f"blobs/{layer['digest']}")
            answer = self.http.get(url)
            if answer.status_code == 404:
                still = self.http.get(self.url(repository, f"manifests/{manifest_digest}"))
                if still.status_code == 404:
                    break  # deleted while it was pulled
                answer = self.http.get(url)  # deleted, and pushed again
            assert answer.status_code == 200, f"{repository} has manifest {manifest_digest} and lost {layer['digest']}"
            assert str(Digest.of(answer.content)) == layer["digest"]
        return len(manifest["layers"])

    def delete(self, repository: str, _step: int) -> None:
        reference = self.random.choice(TAGS)
        if self.random.random() < 0.7:
            found = self.http.head(self.url(repository, f"manifests/{reference}"))
            reference = found.headers.get("Docker-Content-Digest", reference)
        answer = self.http.delete(self.url(repository, f"manifests/{reference}"))
        assert answer.status_code in (202, 404), answer.text

    def leave_garbage(self, repository: str, step: int) -> None:
        garbage = b"garbage %d " % step * 100
        self.push_blob(repository, garbage)
        self.http.post(self.url(repository, "blobs/uploads/"))
        if self.random.random() < 0.3:
            answer = self.http.delete(self.url(repository, f"blobs/{Digest.of(garbage)}"))
            assert answer.status_code in (202, 404), answer.text  # a client of the same step was first


def blobs(storage: StorageDriver) -> set[Digest]:
    return {paths.blob_digest(key) for key in storage.list(paths.BLOBS)}


def images(client: Client) -> Iterator[tuple[str, str]]:
    for repository in REPOSITORIES:
        for tag in client.http.get(client.url(repository, "tags/list")).json().get("tags", []):
            yield repository, tag


def test_no_image_loses_a_blob_and_no_garbage_stays(store: tuple[StorageDriver, int]) -> None:
    storage, actions = store
    with AppServer(Registry(storage, grace=GRACE, upload_expiry=GRACE)) as server:
        stop = threading.Event()
        freed: Counter[str] = Counter()

        def collect() -> None:
            registry = Registry(storage, grace=GRACE, upload_expiry=GRACE)  # as `dvcr gc` beside the server
            while not stop.is_set():
                report = registry.collector.run(stop=stop.is_set)
                freed.update(blobs=report.blobs, links=report.links, uploads=report.uploads, runs=1)
                assert report.unreadable == 0

        def work(seed: int) -> Counter[str]:
            client = Client(server.url, seed)
            for step in range(actions):
                client.act(step)
            return client.done

        with ThreadPoolExecutor(CLIENTS + 2) as pool:
            collecting = [pool.submit(collect) for _ in range(2)]
            working = [pool.submit(work, seed) for seed in range(CLIENTS)]
            try:
                done = sum((future.result() for future in working), Counter())
            finally:
                stop.set()
            for future in collecting:
                future.result()
        assert done.total() == CLIENTS * actions

        client, registry = Client(server.url, 0), server.registry
        pulled = 0
        for repository, tag in images(client):
            found = client.http.get(client.url(repository, f"manifests/{tag}"))
            assert found.status_code == 200, f"{repository}:{tag} points nowhere"
            pulled += client.check_blobs(repository, found.headers["Docker-Content-Digest"], found.json())
        assert pulled
        assert registry.scrubber.run().healthy

        # Nobody pushes any more: without a grace exactly that stays which is needed.
        last = Registry(storage, grace=timedelta(0), upload_expiry=timedelta(0)).collector
        last.run()
        manifests = [
            (repository, paths.last_digest(key))
            for repository in registry.catalog.all()
            for key in storage.list(paths.manifests(repository))
        ]
        bodies = [json.loads(registry.manifests.get(*manifest).body) for manifest in manifests]
        needed = {part["digest"] for body in bodies for part in (body["config"], *body["layers"])}
        assert {str(digest) for digest in blobs(storage)} == needed
        for manifest in manifests:
            registry.manifests.delete(*manifest)
        last.run()
        assert (blobs(storage), registry.catalog.all(), list(storage.uploads())) == (set(), [], [])
    print(f"done {dict(done)}, collected {dict(freed)}")
