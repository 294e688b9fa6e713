"""What a worker shows to the registry: its password to the token service alone, and to a repository a token for it."""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
import requests
from requests.adapters import HTTPAdapter

from dvcr.artifact.staged import Part, seal
from dvcr.artifact.store import fetch
from dvcr.client.registry import RegistryClient
from dvcr.client.transport import Transport
from dvcr.config import ImporterSettings
from dvcr.digest import Digest
from dvcr.jobs.job import BlobOrigin, HttpOrigin, ImageOrigin, ImportJob, JobState, Origin
from importer.tasks import run_import
from tests.support.access import PASSWORDS, guarded_registry
from tests.support.file_server import serving
from tests.support.images import build_image
from tests.support.imports import disk
from tests.support.jobs import MemoryJobBoard

USER = "all"


@dataclass(frozen=True)
class Asked:
    """A request that went to the registry."""

    method: str
    path: str
    query: dict[str, list[str]]
    authorization: str

    @property
    def repository(self) -> str:
        match = re.fullmatch(r"/v2/(.+)/(?:blobs|manifests|tags)/.*", self.path)
        return match[1] if match else ""

    @property
    def access(self) -> dict[str, set[str]]:
        """Actions by repository, as the token says."""
        scheme, _, token = self.authorization.partition(" ")
        assert scheme == "Bearer"
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
        return {entry["name"]: set(entry["actions"]) for entry in claims["access"]}


class Recording(HTTPAdapter):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Asked] = []

    def send(self, request: requests.PreparedRequest, *args: Any, **how: Any) -> requests.Response:
        parts = urlsplit(str(request.url))
        carried = request.headers.get("Authorization", "")
        self.asked.append(Asked(str(request.method), parts.path, parse_qs(parts.query), carried))
        return super().send(request, *args, **how)


class Worker:
    """A worker's part in an import, in this process."""

    def __init__(self, url: str, scratch: Path) -> None:
        self.url = url
        self.wire = Recording()
        self.client = RegistryClient(Transport(url, username=USER, password=PASSWORDS[USER], adapter=self.wire))
        self._settings = ImporterSettings(scratch_dir=scratch, source_addresses="any")

    def run(self, repository: str, origin: Origin) -> list[Asked]:
        """Import; what was asked for that."""
        board = MemoryJobBoard()
        board.submit(ImportJob(id=str(uuid.uuid4()), repository=repository, tag="tag", origin=origin))
        taken = board.take("worker", self._settings.lease_s)
        assert taken is not None
        self.wire.asked.clear()
        run_import(taken, "worker", board, self.client, self._settings)
        progress = board.progress(taken.job.id)
        assert progress is not None
        assert (progress.state, progress.message) == (JobState.SUCCEEDED, "")
        return list(self.wire.asked)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    (tmp_path / "scratch").mkdir()
    with guarded_registry(tmp_path) as server:
        yield Worker(server.url, tmp_path / "scratch")


def check(asked: list[Asked], repositories: set[str]) -> None:
    """Only these were asked for anything, each with tokens for it; the password went nowhere but to the service."""
    tokens = [request for request in asked if request.path == "/token"]
    assert tokens
    assert all(request.authorization.startswith("Basic ") for request in tokens)
    others = [request for request in asked if request.path != "/token" and request.authorization]
    assert {request.repository for request in others} == repositories
    for request in others:
        access = request.access
        assert access.pop(request.repository), request
        # To mount what lies elsewhere, the token that uploads go by is also for that: to pull, by the digest.
        if access:
            assert "/blobs/uploads/" in request.path
            assert access.keys() <= repositories | {"**"}
            assert all(actions == {"pull"} for actions in access.values())


@pytest.mark.parametrize("image_format", ["qcow2", "vmdk"])
def test_an_import(worker: Worker, tmp_path: Path, image_format: str) -> None:
    with serving(build_image(tmp_path, disk(), image_format)) as source:
        first = worker.run("cvmi/debian", HttpOrigin(url=source.url))
        second = worker.run("vmi/team/debian", HttpOrigin(url=source.url))
    check(first, {"cvmi/debian"})
    # Chunks that are there are mounted from wherever they are: the token is for that too, and shown for nothing else.
    check(second, {"vmi/team/debian"})
    mounts = [request for request in second if "mount" in request.query and request.authorization]
    assert mounts
    assert all(request.access["**"] == {"pull"} for request in mounts)
    bearer = {"Authorization": mounts[-1].authorization}
    for method, path in (
        ("GET", "cvmi/debian/manifests/tag"),
        ("GET", "cvmi/debian/tags/list"),
        ("POST", "cvmi/debian/blobs/uploads/"),
        ("DELETE", "vmi/team/debian/manifests/tag"),
        ("GET", "_catalog"),
    ):
        assert requests.request(method, f"{worker.url}/v2/{path}", headers=bearer).status_code == 401, path


def test_a_copy_of_an_image(worker: Worker, tmp_path: Path) -> None:
    with serving(build_image(tmp_path, disk(), "qcow2")) as source:
        worker.run("cvmi/debian", HttpOrigin(url=source.url))
    digest = fetch(worker.client.repository("cvmi/debian"), "tag").digest
    asked = worker.run("vmi/team/copy", ImageOrigin(repository="cvmi/debian", digest=str(digest)))
    check(asked, {"cvmi/debian", "vmi/team/copy"})
    written = {request.repository for request in asked if request.method not in ("GET", "HEAD")}
    assert written == {"vmi/team/copy"}


def test_an_upload(worker: Worker, tmp_path: Path) -> None:
    content = build_image(tmp_path, disk(), "qcow2")
    repository = worker.client.repository("vmi/team/sent")
    part = Part(digest=Digest.of(content), size_bytes=len(content))
    repository.push_blob(part.digest, content)
    origin = BlobOrigin(repository=repository.name, digest=str(seal(repository, [part])), size_bytes=len(content))
    check(worker.run("vmi/team/sent", origin), {"vmi/team/sent"})
