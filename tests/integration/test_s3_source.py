"""Objects of S3 as sources: without scratch space, and from a server that fails."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from converter.inspect import ImageFormat
from dvcr.config import ImporterSettings
from dvcr.errors import SourceError
from importer.checksums import Checksums
from importer.pipeline import ImportWatch, import_disk
from importer.sources.s3 import S3Download, S3Origin
from importer.sources.spooled import SpooledSource
from tests.support.downloads import WatchedSpool
from tests.support.images import build_image
from tests.support.imports import MIB, disk
from tests.support.memory_registry import MemoryRegistry
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.stalling_proxy import stalling_proxy
from tests.support.waiting import eventually


class Objects:
    """One bucket."""

    def __init__(self, server: S3Server, scratch: Path) -> None:
        self.server = server
        self.bucket = server.bucket().bucket
        self.settings = ImporterSettings(scratch_dir=scratch, retries=3)

    def put(self, content: bytes) -> None:
        self.server.client.put_object(Bucket=self.bucket, Key="disk", Body=content)

    def download(self, url: str = "", **settings: object) -> S3Download:
        origin = S3Origin(self.bucket, "disk", url or self.server.url)
        return S3Download(origin, self.settings.model_copy(update=settings))


@pytest.fixture
def objects(moto_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objects:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    return Objects(moto_server, tmp_path / "scratch")


def test_a_qcow2_needs_no_scratch_space(objects: Objects, tmp_path: Path) -> None:
    raw = disk(data_mib=48, size_mib=64)  # in clusters so small that there are tables all over the file
    objects.put(build_image(tmp_path, raw, "qcow2", "-o", "cluster_size=4k"))
    spool = WatchedSpool(objects.settings.scratch_dir)
    source = SpooledSource(objects.download(), Checksums({}), spool, max_bytes=2**40)
    registry = MemoryRegistry()
    try:
        image = import_disk(
            source,
            registry.client().repository("cvmi/a"),
            ["latest"],
            origin="test",
            checksums={},
            settings=objects.settings,
            watch=ImportWatch(),
        )
        assert source.spooled_bytes == 0
    finally:
        source.close()
    assert (image.source.format, image.virtual_size_bytes) == (ImageFormat.QCOW2.value, len(raw))
    assert spool.written_bytes == 0


def test_a_server_that_falls_silent_is_asked_again(objects: Objects) -> None:
    content = random.Random(3).randbytes(10 * MIB)
    objects.put(content)
    with stalling_proxy(objects.server.url.partition("://")[2], after_bytes=6 * MIB) as proxy:
        download = objects.download(f"http://{proxy.address}", idle_timeout_s=1, connections=1)
        with ThreadPoolExecutor() as pool:
            fetched = pool.submit(lambda: b"".join(download.pieces()))
            eventually(lambda: download.trouble.endswith("trying again (2 of 4)"), "it is asked again")
            proxy.resume()
            assert fetched.result(60) == content
        assert download.trouble == ""
        download.close()


def test_an_object_that_changes_is_no_mixture(objects: Objects) -> None:
    objects.put(random.Random(3).randbytes(40 * MIB))
    download = objects.download(connections=1)
    pieces = download.pieces()
    assert next(pieces)
    objects.put(bytes(40 * MIB))
    with pytest.raises(SourceError) as caught:
        for _ in pieces:
            pass
    assert (caught.value.reason, caught.value.retryable) == ("SourceChanged", True)
    download.close()
