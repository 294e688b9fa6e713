"""A full disk, for real: the store on a small file system of its own."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from dvcr.digest import Digest
from tests.support.registry import RegistryServer
from tests.support.small_disk import small_disk_of

MIB = 2**20
DISK_BYTES = 48 * MIB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of DISK_BYTES."""
    with small_disk_of(tmp_path / "disk", DISK_BYTES) as folder:
        yield folder


def files(root: Path, below: str) -> list[Path]:
    return [path for path in (root / below).rglob("*") if path.is_file()]


def fill(path: Path) -> None:
    """Take all room that is left."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    with suppress(OSError):
        while os.write(fd, bytes(4096)):
            pass
    os.close(fd)


def push(server: RegistryServer, data: bytes, *, announced: bool = True) -> requests.Response:
    """Push a blob; one whose size is not announced is found to be too large while it is written."""
    body = data if announced else iter([data[:MIB], data[MIB:]])
    url, digest = f"{server.url}/v2/a/blobs/uploads/", str(Digest.of(data))
    location = requests.post(url, timeout=30).headers["Location"]
    return requests.put(server.url + location, params={"digest": digest}, data=body, timeout=30)


def test_pushes_fail_clearly_and_everything_else_goes_on(small_disk: Path) -> None:
    with RegistryServer(small_disk / "root") as server:
        kept = os.urandom(20 * MIB)
        assert push(server, kept).status_code == 201
        url = f"{server.url}/v2/a/blobs/{Digest.of(kept)}"

        stop, wrong = threading.Event(), list[int]()

        def read() -> None:
            while not stop.is_set():
                answer = requests.get(url, timeout=30)
                if answer.status_code != 200 or answer.content != kept:
                    wrong.append(answer.status_code)

        reader = threading.Thread(target=read)
        reader.start()
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda n: push(server, os.urandom(30 * MIB), announced=n > 0), range(3)))
        stop.set()
        reader.join()
        assert [answer.status_code for answer in answers] == [507] * 3
        for answer in answers:
            (error,) = answer.json()["errors"]
            assert error["code"] == "INSUFFICIENT_STORAGE"
            assert "free space in the storage folder" in error["message"]
        assert wrong == []
        assert files(server.root, ".uploads") == []
        assert [path.stat().st_size for path in files(server.root, "blobs")] == [20 * MIB]
        assert push(server, os.urandom(20 * MIB)).status_code == 201  # what was half-written made room again


def test_not_even_a_manifest_fits(small_disk: Path) -> None:
    with RegistryServer(small_disk / "root") as server:
        assert push(server, b"{}").status_code == 201
        filler = small_disk / "filler"
        fill(filler)
        before = files(server.root, ".")
        digest = str(Digest.of(b"{}"))
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2}
        body = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config}
        url, headers = f"{server.url}/v2/a/manifests/v1", {"Content-Type": body["mediaType"]}
        answer = requests.put(url, json=body | {"layers": []}, headers=headers, timeout=30)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (507, "INSUFFICIENT_STORAGE")
        assert files(server.root, ".") == before
        filler.unlink()
        put = requests.put(url, json=body | {"layers": []}, headers=headers, timeout=30)  # type: ignore[arg-type]
        assert put.status_code == 201
