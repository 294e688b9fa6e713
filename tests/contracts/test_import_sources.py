"""What the pipeline relies on, for every source of bytes."""

import hashlib
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dvcr.artifact.staged import Part, seal
from dvcr.client.cancellation import Cancellation, RequestCancelledError
from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.config import ClientSettings, ImporterSettings
from dvcr.digest import Digest
from dvcr.errors import DvcrError, IntegrityError, SourceError
from dvcr.jobs.job import BlobOrigin, ContainerOrigin, HttpOrigin, Origin
from importer.disk_copy import DiskCopy
from importer.sources.opening import describe, open_source
from importer.sources.s3 import S3Origin
from importer.sources.source import ImportSource
from tests.support.container_images import gzipped, plain, push_image, tar, zstandard_
from tests.support.file_server import serving
from tests.support.registry import RegistryServer
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.stalling_proxy import StallingProxy, stalling_proxy

MIB = 2**20
CONTENT = random.Random(7).randbytes(9 * MIB + 321)
SUMS = {name: hashlib.new(name, CONTENT).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")}
KINDS = ("http", "http-chunked", "container", "container-gzip", "container-zstd", "container-blob", "s3", "upload")


@dataclass
class Place:
    """Where the content can be fetched from."""

    origin: Origin | S3Origin
    remove: Callable[[], None]
    settings: ImporterSettings
    client: RegistryClient
    described: str
    secrets: tuple[str, ...] = field(default=())

    @property
    def address(self) -> str:
        """HOST:PORT of the server."""
        match self.origin:
            case HttpOrigin():
                return f"localhost:{urlsplit(self.origin.url).port}"
            case S3Origin():
                return urlsplit(self.origin.endpoint_url).netloc
        return self.client.host

    def through(self, proxy: StallingProxy) -> "Place":
        """The same place behind a proxy."""
        match self.origin:
            case HttpOrigin():
                url = self.origin.url.replace(f":{urlsplit(self.origin.url).port}", f":{proxy.port}")
                return replace(self, origin=HttpOrigin(url=url))
            case S3Origin():
                return replace(self, origin=replace(self.origin, endpoint_url=f"http://{proxy.address}"))
            case ContainerOrigin():
                settings = self.settings.model_copy(update={"plain_http_registries": (proxy.address,)})
                image = self.origin.image.replace(self.client.host, proxy.address)
                return replace(self, origin=ContainerOrigin(image=image), settings=settings)
        return replace(self, client=RegistryClient.from_settings(ClientSettings(url=f"http://{proxy.address}")))

    @contextmanager
    def open(
        self, checksums: Mapping[str, str] | None = None, cancellation: Cancellation | None = None
    ) -> Iterator[ImportSource]:
        source = open_source(self.origin, checksums or {}, self.client, self.settings, cancellation=cancellation)
        assert not isinstance(source, DiskCopy)
        try:
            yield source
        finally:
            source.close()
            source.close()
            assert list(self.settings.scratch_dir.iterdir()) == [], "nothing stays in the scratch folder"


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest, tmp_path: Path, registry_server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    kind: str = request.param
    client = RegistryClient.from_settings(ClientSettings(url=registry_server.url))
    settings = ImporterSettings(
        scratch_dir=tmp_path, retries=1, source_addresses="any", plain_http_registries=(registry_server.address,)
    )
    with ExitStack() as stack:
        if kind.startswith("http"):
            server = stack.enter_context(serving(CONTENT))
            server.chunked = kind == "http-chunked"
            url = server.url.replace("://", "://user:hidden@") + "?signature=hidden"
            origin: Origin | S3Origin = HttpOrigin(url=url)
            yield Place(origin, lambda: server.statuses.append(404), settings, client, server.url, ("hidden",))
        elif kind == "s3":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            s3: S3Server = request.getfixturevalue("moto_server")
            bucket = s3.bucket().bucket
            s3.client.put_object(Bucket=bucket, Key="a/disk.img", Body=CONTENT)
            yield Place(
                S3Origin(bucket, "a/disk.img", s3.url),
                lambda: s3.client.delete_object(Bucket=bucket, Key="a/disk.img"),
                settings,
                client,
                f"s3://{bucket}/a/disk.img",
            )
        else:
            yield _in_registry(kind, client, settings, registry_server.address)


def _in_registry(kind: str, client: RegistryClient, settings: ImporterSettings, host: str) -> Place:
    repository = client.repository(f"contract/{kind}-{uuid.uuid4().hex}")
    if kind == "upload":
        digests = [_push(repository, CONTENT[at : at + 4 * MIB]) for at in range(0, len(CONTENT), 4 * MIB)]
        digest = seal(repository, digests)
        origin: Origin = BlobOrigin(repository=repository.name, digest=str(digest), size_bytes=len(CONTENT))
        return Place(origin, lambda: repository.delete_manifest(digest), settings, client, "upload")
    archive = tar(("disk/", None), ("disk/a.img", CONTENT))
    layer = {
        "container": plain(archive),
        "container-gzip": gzipped(archive),
        "container-zstd": zstandard_(archive),
        "container-blob": ("application/octet-stream", CONTENT),
    }[kind]
    digest = push_image(repository, [layer])
    image = f"{host}/{repository.name}:latest"
    return Place(
        ContainerOrigin(image=image), lambda: repository.delete_manifest(digest), settings, client, f"docker://{image}"
    )


def _push(repository: Repository, data: bytes) -> Part:
    repository.push_blob(Digest.of(data), data)
    return Part(digest=Digest.of(data), size_bytes=len(data))


def test_reads_any_range_and_checks_every_checksum(place: Place) -> None:
    with place.open(SUMS) as source:
        assert source.read_at(0, 4096) == CONTENT[:4096]
        assert source.read_at(len(CONTENT) - 10, 100) == CONTENT[-10:], "short only at the end"
        assert source.read_at(len(CONTENT), 10) == b""
        assert source.read_at(3 * MIB, 2 * MIB) == CONTENT[3 * MIB : 5 * MIB]
        assert source.size_bytes() == len(CONTENT) == source.total_bytes
        source.finish()
        assert source.fetched_bytes == len(CONTENT)


def test_a_reader_from_front_to_back_may_release_as_it_goes(place: Place) -> None:
    seen = b""
    with place.open(SUMS) as source:
        while piece := source.read_at(len(seen), 700_000):
            seen += piece
            source.release(len(seen))
        source.finish()
    assert seen == CONTENT


def test_the_end_need_not_have_been_read(place: Place) -> None:
    with place.open(SUMS) as source:
        source.release(source.read_at(0, 512).__len__())
        source.finish()


@pytest.mark.parametrize("algorithm", SUMS)
def test_wrong_checksum(place: Place, algorithm: str) -> None:
    wrong = {**SUMS, algorithm: SUMS[algorithm][::-1]}
    with place.open(wrong) as source, pytest.raises(IntegrityError, match=algorithm) as caught:
        source.finish()
    assert caught.value.reason == "ChecksumMismatch"


def test_what_is_not_there_says_so_and_what_to_do(place: Place) -> None:
    place.remove()
    with pytest.raises(DvcrError) as caught, place.open() as source:
        source.read_at(0, 10)
    assert (type(caught.value), caught.value.reason, caught.value.retryable) == (SourceError, "SourceNotFound", False)
    assert not any(secret in caught.value.message for secret in place.secrets)


def test_abort_ends_it(place: Place) -> None:
    with place.open() as source:
        source.abort()
        with pytest.raises(SourceError) as caught:
            source.read_at(len(CONTENT) - 1, 1)
        assert caught.value.reason == "SourceInterrupted"


@pytest.mark.parametrize("after_bytes", [0, 3 * MIB], ids=["from the first byte on", "in the middle"])
def test_a_server_that_hangs_does_not_keep_whoever_aborts(place: Place, after_bytes: int) -> None:
    cancellation, opened, failures = Cancellation(), list[ImportSource](), list[DvcrError]()

    def read(far: Place) -> None:
        try:
            with far.open(cancellation=cancellation) as source:
                opened.append(source)
                source.read_at(0, len(CONTENT))
        except DvcrError as error:
            failures.append(error)

    with stalling_proxy(place.address, after_bytes) as proxy:
        reader = threading.Thread(target=read, args=(place.through(proxy),))
        reader.start()
        assert proxy.silent.wait(20)
        began = time.monotonic()
        (opened[0].abort if opened else cancellation.cancel)()
        reader.join(20)
        assert time.monotonic() - began < 2, "also close does not wait for the server"
    assert isinstance(failures[0], RequestCancelledError if not opened else SourceError)
    assert failures[0].reason == ("SourceInterrupted" if opened else "RequestCancelled")


def test_what_the_artifact_tells_of_it_holds_no_secret(place: Place) -> None:
    assert describe(place.origin) == place.described
    assert not any(secret in describe(place.origin) for secret in place.secrets)
