"""`dvcr gc` and `dvcr scrub` beside a running registry, as an operator runs them."""

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from dvcr.descriptor import IMAGE_CONFIG, IMAGE_MANIFEST, OCTET_STREAM, Descriptor
from dvcr.digest import Digest
from dvcr.storage import paths
from tests.support.registry import RegistryServer

COMMAND = [sys.executable, "-c", "from dvcr.cli import main, serve; serve.register(main.app); main.main()"]


def dvcr(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        env=os.environ | {"DVCR__STORAGE__FILESYSTEM__ROOT": str(root), "DVCR__LOG__LEVEL": "error"},
        capture_output=True,
        text=True,
        check=False,
    )


def push_blob(http: requests.Session, repository: str, data: bytes) -> Descriptor:
    digest = Digest.of(data)
    answer = http.post(f"{repository}/blobs/uploads/", params={"digest": str(digest)}, data=data)
    assert answer.status_code == 201, answer.text
    return Descriptor(OCTET_STREAM, digest, len(data))


def push_image(http: requests.Session, repository: str, tag: str, *layers: bytes) -> bytes:
    push_blob(http, repository, b"{}")
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "config": Descriptor(IMAGE_CONFIG, Digest.of(b"{}"), 2).to_json(),
            "layers": [push_blob(http, repository, layer).to_json() for layer in layers],
        }
    ).encode()
    answer = http.put(f"{repository}/manifests/{tag}", data=body, headers={"Content-Type": IMAGE_MANIFEST})
    assert answer.status_code == 201, answer.text
    return body


def flip_last_bit(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.fixture
def repository(fresh_registry: RegistryServer) -> str:
    return f"{fresh_registry.url}/v2/vmi/a"


class TestCollect:
    def test_tells_what_it_would_remove_and_then_removes_it(
        self, fresh_registry: RegistryServer, repository: str, http: requests.Session
    ) -> None:
        push_image(http, repository, "v1", b"layer")
        orphan = push_blob(http, repository, b"x" * 2**20)
        assert "removed 0 blobs" in dvcr(fresh_registry.root, "gc").stdout, "the grace protects what is fresh"
        told = dvcr(fresh_registry.root, "gc", "--dry-run", "--grace", "0")
        assert "would remove" in told.stdout
        assert "1 links" in told.stdout
        assert http.head(f"{repository}/blobs/{orphan.digest}").status_code == 200
        done = dvcr(fresh_registry.root, "gc", "--grace", "0")
        assert done.stdout == "removed 1 blobs (1.0 MiB), 1 links, 0 uploads, 0 empty repositories\n"
        assert http.head(f"{repository}/blobs/{orphan.digest}").status_code == 404
        assert http.get(f"{repository}/blobs/{Digest.of(b'layer')}").content == b"layer"

    def test_an_unreadable_manifest_keeps_its_repository_and_nothing_else(
        self, fresh_registry: RegistryServer, repository: str, http: requests.Session
    ) -> None:
        body = push_image(http, repository, "v1", b"layer")
        push_blob(http, f"{repository}-b", b"orphan")
        manifest = fresh_registry.root / paths.manifest("vmi/a", Digest.of(body))
        manifest.write_bytes(b"")
        done = dvcr(fresh_registry.root, "gc", "--grace", "0")
        assert done.returncode == 0
        assert "removed 1 blobs" in done.stdout
        assert "kept everything of 1 repositories" in done.stdout
        assert http.get(f"{repository}/blobs/{Digest.of(b'layer')}").content == b"layer"
        answer = http.get(f"{repository}/manifests/v1")
        assert answer.status_code == 404
        assert "corrupt" in answer.json()["errors"][0]["message"]


class TestScrub:
    def test_of_a_whole_store(self, fresh_registry: RegistryServer, repository: str, http: requests.Session) -> None:
        push_image(http, repository, "v1", b"layer")
        done = dvcr(fresh_registry.root, "scrub")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("read 2 blobs and 1 manifests")

    def test_shows_its_progress_on_a_terminal(
        self, fresh_registry: RegistryServer, repository: str, http: requests.Session
    ) -> None:
        push_image(http, repository, "v1", b"x" * 9 * 2**20)
        controller, terminal = pty.openpty()
        shown = b""
        with subprocess.Popen(
            [*COMMAND, "scrub"],
            env=os.environ | {"DVCR__STORAGE__FILESYSTEM__ROOT": str(fresh_registry.root), "TERM": "xterm"},
            stdout=subprocess.PIPE,
            stderr=terminal,
        ) as process:
            os.close(terminal)
            with suppress(OSError):  # a terminal that nobody has open any more
                while data := os.read(controller, 65536):
                    shown += data
            os.close(controller)
            assert process.stdout is not None
            assert process.stdout.read().startswith(b"read 2 blobs")
        assert b"9.4/9.4 MB" in shown

    def test_finds_moves_tells_and_a_push_heals(
        self, fresh_registry: RegistryServer, repository: str, http: requests.Session
    ) -> None:
        push_image(http, repository, "v1", b"layer")
        push_image(http, repository, "v2", b"other")
        body = push_image(http, f"{repository}-b", "v1", b"third")
        layer = Digest.of(b"layer")
        flip_last_bit(fresh_registry.root / paths.blob(layer))
        flip_last_bit(fresh_registry.root / paths.manifest("vmi/a-b", Digest.of(body)))
        done = dvcr(fresh_registry.root, "scrub", "--json")
        assert done.returncode == 3
        report = json.loads(done.stdout)
        assert report["corrupt_blobs"] == [str(layer)]
        assert report["corrupt_manifests"] == [f"vmi/a-b@{Digest.of(body)}"]
        assert sorted(report["damaged_images"]) == ["vmi/a-b:v1", "vmi/a:v1"]
        answer = http.get(f"{repository}/blobs/{layer}")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, "BLOB_UNKNOWN")
        assert "push it again" in answer.json()["errors"][0]["message"]
        again = dvcr(fresh_registry.root, "scrub")
        assert again.returncode == 3
        assert "image vmi/a:v1 cannot be pulled" in again.stdout
        push_image(http, repository, "v1", b"layer")
        push_image(http, f"{repository}-b", "v1", b"third")
        assert http.get(f"{repository}/blobs/{layer}").content == b"layer"
        assert dvcr(fresh_registry.root, "scrub").returncode == 0
        assert list(fresh_registry.root.rglob("quarantine/**/*")) == []
