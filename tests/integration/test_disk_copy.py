"""Disks of DVCR as sources: mounted here, copied from elsewhere, never converted."""

import random
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from converter.nbd.image import ImageExport
from dvcr.artifact.reader import ImageReader
from dvcr.artifact.store import StoredImage, fetch
from dvcr.client.cancellation import Cancellation, RequestCancelledError
from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.config import ClientSettings, ImporterSettings
from dvcr.descriptor import OCTET_STREAM, Descriptor
from dvcr.digest import Digest
from dvcr.errors import DvcrError, ImageError, IntegrityError, SourceError
from dvcr.jobs.job import ContainerOrigin, ImageOrigin, Origin
from importer.disk_copy import DiskCopy
from importer.pipeline import ImportWatch, import_disk
from importer.sources.opening import describe, open_source
from importer.staging import StagedChunks
from tests.support.image_server import ImageServer, publish_disk, serving_images
from tests.support.registry import RegistryServer
from tests.support.stalling_proxy import stalling_proxy

MIB = 2**20
DISK = random.Random(4).randbytes(9 * MIB) + bytes(15 * MIB) + random.Random(5).randbytes(MIB)


class Copying:
    """Imports into one registry."""

    def __init__(self, url: str, scratch: Path) -> None:
        self.client = RegistryClient.from_settings(ClientSettings(url=url))
        self.host = self.client.host
        self.settings = ImporterSettings(
            scratch_dir=scratch, source_addresses="any", plain_http_registries=(self.host,)
        )
        self.target = self.client.repository(f"copies/{uuid.uuid4().hex}")
        self.sent_bytes = -1

    def run(self, origin: Origin, watch: ImportWatch | None = None) -> StoredImage:
        source = open_source(origin, {}, self.client, self.settings)
        assert isinstance(source, DiskCopy)
        try:
            import_disk(
                source,
                self.target,
                ["latest"],
                origin=describe(origin),
                checksums={},
                settings=self.settings,
                watch=watch or ImportWatch(),
            )
            assert source.fetched_bytes == source.total_bytes == source.image.stored_bytes
        finally:
            source.close()
        self.sent_bytes = source.sent_bytes
        return fetch(self.target, "latest")

    def failure(self, origin: Origin, watch: ImportWatch | None = None) -> DvcrError:
        with pytest.raises(DvcrError) as caught:
            self.run(origin, watch)
        assert self.target.tags() == []
        return caught.value

    def content(self, stored: StoredImage) -> bytes:
        with ImageReader(self.target, stored.image, read_ahead=1) as reader:
            return bytes(ImageExport(reader).read(0, stored.image.virtual_size_bytes))


@pytest.fixture
def copying(registry_server: RegistryServer, tmp_path: Path) -> Copying:
    return Copying(registry_server.url, tmp_path)


@pytest.fixture
def published(copying: Copying, tmp_path: Path) -> tuple[Repository, Digest]:
    """A disk in the registry that is imported into."""
    (tmp_path / "a.raw").write_bytes(DISK)
    reference = publish_disk(copying.client, f"copies/source-{uuid.uuid4().hex}", tmp_path / "a.raw")
    return copying.client.repository(reference.repository), Digest.parse(reference.digest)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[ImageServer, str]]:
    """A disk in another registry, and its name."""
    (tmp_path / "a.raw").write_bytes(DISK)
    with serving_images() as images:
        images.publish("team/disk", tmp_path / "a.raw")
        yield images, f"{images.url.partition('://')[2]}/team/disk:latest"


def test_an_image_of_the_same_registry_is_mounted(copying: Copying, published: tuple[Repository, Digest]) -> None:
    repository, digest = published
    former = fetch(repository, digest).image
    stored = copying.run(ImageOrigin(repository=repository.name, digest=str(digest)))
    assert copying.sent_bytes == 0
    assert stored.image.chunks == former.chunks
    assert stored.image.source.origin == f"{repository.name}@{digest}"
    assert stored.image.created > former.created, "the config is written anew"
    repository.delete_manifest(digest)
    assert copying.content(stored) == DISK, "it needs nothing of its source"


def test_the_same_by_the_name_of_the_registry(copying: Copying, published: tuple[Repository, Digest]) -> None:
    repository, digest = published
    stored = copying.run(ContainerOrigin(image=f"{copying.host}/{repository.name}@{digest}"))
    assert copying.sent_bytes == 0
    assert copying.content(stored) == DISK


def test_a_disk_of_another_registry_is_copied_once(
    fresh_registry: RegistryServer, elsewhere: tuple[ImageServer, str], tmp_path: Path
) -> None:
    _, image = elsewhere
    copying = Copying(fresh_registry.url, tmp_path)
    copying.settings = copying.settings.model_copy(update={"plain_http_registries": (image.partition("/")[0],)})
    stored = copying.run(ContainerOrigin(image=image))
    assert copying.sent_bytes == stored.image.stored_bytes
    assert copying.content(stored) == DISK
    again = Copying(fresh_registry.url, tmp_path)
    again.settings = copying.settings
    again.run(ContainerOrigin(image=image))
    assert again.sent_bytes == 0, "the registry has every chunk"


def test_a_chunk_that_is_not_what_its_digest_says(
    fresh_registry: RegistryServer, elsewhere: tuple[ImageServer, str], tmp_path: Path
) -> None:
    images, image = elsewhere
    copying = Copying(fresh_registry.url, tmp_path)
    copying.settings = copying.settings.model_copy(update={"plain_http_registries": (image.partition("/")[0],)})
    chunks = fetch(images.registry.client().repository("team/disk"), "latest").image.chunks
    images.spoil_blob(str(chunks[1].descriptor.digest))
    error = copying.failure(ContainerOrigin(image=image))
    assert (type(error), error.reason) == (IntegrityError, "DigestMismatch")


def test_sources_that_are_gone_or_too_large(copying: Copying, published: tuple[Repository, Digest]) -> None:
    repository, digest = published
    origin = ImageOrigin(repository=repository.name, digest=str(digest))
    copying.settings = copying.settings.model_copy(update={"max_virtual_size_bytes": MIB})
    error = copying.failure(origin)
    assert (type(error), error.reason) == (ImageError, "VirtualSizeTooLarge")
    repository.delete_manifest(digest)
    error = copying.failure(origin)
    assert (type(error), error.reason) == (SourceError, "SourceNotFound")


def test_it_stops_when_it_is_no_longer_wanted(copying: Copying, published: tuple[Repository, Digest]) -> None:
    class Stop(ImportWatch):
        def converted(self, size_bytes: int) -> None:
            raise SourceError("stopped", reason="Stopped")

    repository, digest = published
    origin = ImageOrigin(repository=repository.name, digest=str(digest))
    assert copying.failure(origin, Stop()).reason == "Stopped"
    source = open_source(origin, {}, copying.client, copying.settings)
    source.abort()
    assert isinstance(source, DiskCopy)
    with pytest.raises(SourceError, match="stopped"):
        source.copy(copying.target, lambda _: None)


@pytest.mark.parametrize("hung", ["source", "destination"])
def test_a_registry_that_hangs_does_not_keep_a_copy_that_is_aborted(
    fresh_registry: RegistryServer, elsewhere: tuple[ImageServer, str], tmp_path: Path, hung: str
) -> None:
    _, image = elsewhere
    host, _, name = image.partition("/")
    upstream = host if hung == "source" else fresh_registry.address
    with stalling_proxy(upstream) as proxy:
        copying = Copying(fresh_registry.url if hung == "source" else f"http://{proxy.address}", tmp_path)
        copying.settings = copying.settings.model_copy(update={"plain_http_registries": (host, proxy.address)})
        origin = ContainerOrigin(image=f"{proxy.address}/{name}" if hung == "source" else image)
        source = open_source(origin, {}, copying.client, copying.settings)
        assert isinstance(source, DiskCopy)
        failures = list[DvcrError]()

        def copy() -> None:
            try:
                source.copy(copying.target, lambda _: None)
            except DvcrError as error:
                failures.append(error)
            finally:
                source.close()

        proxy.stall()
        copier = threading.Thread(target=copy)
        copier.start()
        assert proxy.silent.wait(20)
        began = time.monotonic()
        source.abort()
        copier.join(20)
        assert time.monotonic() - began < 2
    assert [(type(error), error.reason) for error in failures] == [(SourceError, "SourceInterrupted")]


def test_a_registry_that_hangs_does_not_keep_pushes_that_are_cancelled(fresh_registry: RegistryServer) -> None:
    cancellation = Cancellation()
    with stalling_proxy(fresh_registry.address) as proxy:
        client = RegistryClient.from_settings(ClientSettings(url=f"http://{proxy.address}"))
        staged = StagedChunks(client.on_behalf_of(cancellation).repository("copies/hung"))
        proxy.stall()
        for number in range(4):
            data = bytes([number]) * 4 * MIB
            staged.put(Descriptor(OCTET_STREAM, Digest.of(data), len(data)), data)
        assert proxy.silent.wait(20)
        began = time.monotonic()
        threading.Timer(0.1, cancellation.cancel).start()
        with pytest.raises(RequestCancelledError):
            staged.put(Descriptor(OCTET_STREAM, Digest.of(b"more"), 4), b"more")
        staged.close()
        assert time.monotonic() - began < 2
        with pytest.raises(RequestCancelledError):
            staged.drain()
