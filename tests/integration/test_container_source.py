"""Container images as sources, in registries as they are found: kinds of layers, platforms, logins, TLS."""

import base64
import json
import os
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.config import ClientSettings, ImporterSettings
from dvcr.digest import Digest
from dvcr.errors import DvcrError, ImageError, IntegrityError, SourceError
from dvcr.jobs.job import ContainerOrigin
from importer.disk_copy import DiskCopy
from importer.logins import login_in, login_of_user
from importer.sources.opening import open_source
from tests.conformance.clients import needs, run
from tests.support.access import PASSWORDS, guarded_registry
from tests.support.certificates import self_signed
from tests.support.container_images import IndexEntry, gzipped, plain, push_image, push_index, tar, zstandard_
from tests.support.image_server import ImageServer, serving_images
from tests.support.memory_registry import Answer, Fault, Zeroes
from tests.support.peak_memory import peak_memory
from tests.support.registry import RegistryServer

DISK = os.urandom(3 * 2**20 + 5)
OTHER = tar(("etc/passwd", b"x" * 5000), ("var/log", None))
EMPTY = bytes(1024)


class Pulls:
    """Pulls disks of a registry as a worker would."""

    def __init__(self, url: str, scratch: Path, ca_file: Path | None = None) -> None:
        self.host = url.partition("://")[2]
        self.client = RegistryClient.from_settings(ClientSettings(url=url, ca_file=ca_file))
        self.settings = ImporterSettings(
            scratch_dir=scratch,
            retries=0,
            source_addresses="any",
            plain_http_registries=(self.host,) if url.startswith("http:") else (),
            platform="linux/amd64",
        )

    def repository(self) -> Repository:
        return self.client.repository(f"containers/{uuid.uuid4().hex}")

    def disk(self, image: str, **origin: Any) -> bytes:
        source = open_source(ContainerOrigin(image=image, **origin), {}, self.client, self.settings)
        assert not isinstance(source, DiskCopy)
        try:
            data = source.read_at(0, 2**30)
            source.finish()
        finally:
            source.close()
        return data

    def of(self, repository: Repository, reference: str = ":latest", **origin: Any) -> bytes:
        return self.disk(f"{self.host}/{repository.name}{reference}", **origin)

    def failure(self, repository: Repository, reference: str = ":latest", **origin: Any) -> DvcrError:
        with pytest.raises(DvcrError) as caught:
            self.of(repository, reference, **origin)
        return caught.value


@pytest.fixture
def pulls(registry_server: RegistryServer, tmp_path: Path) -> Pulls:
    return Pulls(registry_server.url, tmp_path)


def link(name: str, target: str) -> tuple[str, tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return name, info


@pytest.mark.parametrize("pack", [plain, gzipped, zstandard_])
@pytest.mark.parametrize(
    "layers",
    [
        [tar(("disk/", None), ("disk/a.qcow2", DISK))],
        [tar(("./disk/a.qcow2", DISK)), OTHER, EMPTY],
        [tar(("disk/old.img", b"old")), tar(("etc/x", b"y"), ("/disk/new.img", DISK), ("z", b""))],
        [tar(("disk/a.img", DISK)), tar(("disk/.wh.b.img", b""))],
    ],
    ids=["one layer", "below others", "the uppermost", "another is hidden"],
)
def test_the_disk_is_found_in_any_layer(pulls: Pulls, pack: Callable[[bytes], Any], layers: list[bytes]) -> None:
    repository = pulls.repository()
    push_image(repository, [pack(layer) for layer in layers])
    assert pulls.of(repository) == DISK


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([OTHER], "there is no file in /disk"),
        ([tar(("disk/a", DISK), ("disk/b", DISK))], "more than one file: disk/a and disk/b"),
        ([tar(("disk/a", DISK)), tar(("disk/.wh.a", b""))], "there is no file in /disk"),
        ([tar(("disk/a", DISK)), tar((".wh.disk", b""))], "there is no file in /disk"),
        ([tar(("disk/a", DISK)), tar(("disk/.wh..wh..opq", b""))], "there is no file in /disk"),
        ([tar(link("disk/a", "/etc/passwd"))], "no plain file"),
        ([tar(("disk/deep/a", DISK))], "no plain file directly in /disk"),
        ([tar(("disk/a", b""))], "is empty"),
        ([tar(("disk/a", DISK))[:-2000000]], "damaged"),
        ([DISK, OTHER], "no tar archive"),
    ],
)
def test_images_without_a_usable_disk_say_why(pulls: Pulls, layers: list[bytes], why: str) -> None:
    repository = pulls.repository()
    push_image(repository, [plain(layer) for layer in layers])
    error = pulls.failure(repository)
    assert (type(error), error.reason) == (SourceError, "InvalidContainerImage")
    assert why in error.message


def test_a_damaged_compressed_layer(pulls: Pulls) -> None:
    repository = pulls.repository()
    media_type, data = gzipped(tar(("disk/a", DISK)))
    push_image(repository, [(media_type, data[:-100])])
    error = pulls.failure(repository)
    assert (type(error), error.reason) == (ImageError, "TruncatedImage")


def test_a_layer_that_is_the_disk_itself(pulls: Pulls) -> None:
    """As podman's machine images and KubeVirt's disk artifacts are."""
    repository = pulls.repository()
    push_image(repository, [("application/zstd", DISK)], artifactType="application/x-machine")
    assert pulls.of(repository) == DISK


def test_bytes_that_are_not_what_the_digest_says(tmp_path: Path) -> None:
    with serving_images() as images:
        repository = images.registry.client().repository("a/b")
        data = tar(("disk/a", DISK))
        push_image(repository, [plain(data)])
        images.spoil_blob(str(Digest.of(data)))
        with pytest.raises(IntegrityError) as caught:
            Pulls(images.url, tmp_path).of(repository)
    assert caught.value.reason == "DigestMismatch"


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[tuple[ImageServer, Pulls, Digest]]:
    """A registry with an image, who pulls from it, and the image's only layer."""
    with serving_images() as images:
        data = tar(("disk/a", DISK))
        push_image(images.registry.client().repository("a/b"), [plain(data)])
        yield images, Pulls(images.url, tmp_path), Digest.of(data)


@pytest.mark.parametrize("behind", [b"", tar(("disk/a", DISK))[:-1024]], ids=["from the start", "behind the disk"])
def test_a_layer_without_end(hostile: tuple[ImageServer, Pulls, Digest], behind: bytes) -> None:
    images, pulls, layer = hostile
    answer = Answer(200, stream=Zeroes(2**40, behind))
    images.registry.faults = [Fault("GET", str(layer), answer=answer)]
    with peak_memory() as peak:
        error = pulls.failure(images.registry.client().repository("a/b"))
    assert (type(error), error.reason) == (IntegrityError, "DigestMismatch")
    assert "more than its" in error.message
    assert peak.grown < 100 * 2**20


def test_a_layer_that_promises_to_be_without_end(hostile: tuple[ImageServer, Pulls, Digest]) -> None:
    images, pulls, layer = hostile
    pulls.settings = pulls.settings.model_copy(update={"max_unpacked_bytes": 2**20})
    error = pulls.failure(images.registry.client().repository("a/b"))
    assert (type(error), error.reason) == (SourceError, "InvalidContainerImage")
    assert f"{layer} has" in error.message
    assert "over importer.max_unpacked_bytes" in error.message


@pytest.mark.parametrize("status", [200, 403, 307])
def test_a_token_server_without_end(hostile: tuple[ImageServer, Pulls, Digest], status: int) -> None:
    images, pulls, _ = hostile

    def answer(request: requests.PreparedRequest) -> Answer:
        if "/token" not in str(request.url):
            return Answer(401, headers={"WWW-Authenticate": f'Bearer realm="{images.url}/token"'})
        headers = {"Location": f"{images.url}/token"} if status == 307 else {}
        return Answer(status, headers=headers, stream=Zeroes(2**40))

    images.registry.intercept = answer
    with peak_memory() as peak:
        error = pulls.failure(images.registry.client().repository("a/b"))
    assert (type(error), error.reason, error.retryable) == (
        SourceError,
        "SourceForbidden" if status == 403 else "SourceUnavailable",
        False,
    )
    assert peak.grown < 100 * 2**20


def test_the_platform_is_chosen(pulls: Pulls) -> None:
    repository = pulls.repository()
    wanted = push_image(repository, [plain(tar(("disk/a", DISK)))], "amd64")
    other = push_image(repository, [plain(tar(("disk/a", b"other" * 200)))], "arm64")
    push_index(repository, ("linux/amd64", wanted, {}), ("linux/arm64/v8", other, {}), ("unknown/unknown", other, {}))
    assert pulls.of(repository) == DISK
    pulls.settings = pulls.settings.model_copy(update={"platform": "linux/arm64"})
    assert pulls.of(repository) == b"other" * 200
    pulls.settings = pulls.settings.model_copy(update={"platform": "linux/s390x"})
    error = pulls.failure(repository)
    assert error.reason == "InvalidContainerImage"
    assert "no image for linux/s390x; there is linux/amd64, linux/arm64:" in error.message
    assert pulls.of(repository, f"@{wanted}") == DISK


def test_an_index_without_platforms(pulls: Pulls) -> None:
    repository = pulls.repository()
    wanted = push_image(repository, [plain(tar(("disk/a", DISK)))], "x")
    push_index(repository, ("", wanted, {}))
    assert pulls.of(repository) == DISK


def test_of_podmans_machine_images_the_one_for_qemu_is_taken(pulls: Pulls) -> None:
    """quay.io/podman/machine-os: one disk in several forms for each platform, told apart by an annotation."""
    repository = pulls.repository()

    def machine(content: bytes) -> Digest:
        return push_image(repository, [("application/zstd", content)], Digest.of(content).hex[:20])

    entries: list[IndexEntry] = [
        (
            platform,
            machine(DISK if (platform, form) == ("linux/amd64", "qemu") else f"{platform} {form}".encode() * 99),
            {"disktype": form},
        )
        for platform in ("linux/arm64", "linux/amd64")
        for form in ("applehv", "hyperv", "qemu")
    ]
    push_index(repository, *entries)
    assert pulls.of(repository) == DISK
    push_index(repository, *entries, ("linux/amd64", machine(b"another for qemu" * 99), {"disktype": "qemu"}))
    error = pulls.failure(repository)
    assert (type(error), error.reason) == (SourceError, "InvalidContainerImage")
    assert "several images for linux/amd64" in error.message
    push_index(repository, *(entry for entry in entries if entry[2] != {"disktype": "qemu"}))
    assert "no image for linux/amd64" in pulls.failure(repository).message


def test_what_is_not_there(pulls: Pulls) -> None:
    error = pulls.failure(pulls.repository())
    assert (error.reason, error.retryable) == ("SourceNotFound", False)
    with pytest.raises(SourceError) as caught:
        pulls.disk("UPPER/..")
    assert caught.value.reason == "InvalidReference"


def test_this_machine_is_out_of_bounds_unless_it_is_opened(pulls: Pulls) -> None:
    repository = pulls.repository()
    push_image(repository, [plain(tar(("disk/a", DISK)))])
    pulls.settings = pulls.settings.model_copy(update={"source_addresses": "private"})
    assert pulls.failure(repository).reason == "SourceAddressRefused"


def test_plain_http_has_to_be_allowed(pulls: Pulls) -> None:
    pulls.settings = pulls.settings.model_copy(update={"plain_http_registries": ()})
    error = pulls.failure(pulls.repository())
    assert error.reason == "SourceUntrusted"
    assert "plain_http_registries" in error.message


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with guarded_registry(tmp_path_factory.mktemp("guarded")) as server:
        yield server


def config_of(host: str, user: str, **entry: Any) -> SecretStr:
    auth = base64.b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode()
    return SecretStr(json.dumps({"auths": {host: {"auth": auth, **entry}}}))


def test_logins_by_pull_secret(guarded: RegistryServer, tmp_path: Path) -> None:
    pulls = Pulls(guarded.url, tmp_path)
    mine = RegistryClient.from_settings(
        ClientSettings(url=guarded.url, username="alice", password=SecretStr(PASSWORDS["alice"]))
    ).repository("team/disk")
    push_image(mine, [plain(tar(("disk/a", DISK)))])
    assert pulls.of(mine, docker_config=config_of(guarded.address, "alice")) == DISK
    assert pulls.of(mine, docker_config=config_of(f"https://{guarded.address}/v1/", "alice")) == DISK
    for config in (SecretStr(""), config_of("quay.io", "alice"), config_of(guarded.address, "bob")):
        error = pulls.failure(mine, docker_config=config)
        assert (error.reason, error.retryable) == ("SourceForbidden", False)
        assert "imagePullSecret" in error.message
    error = pulls.failure(mine, docker_config=SecretStr("nonsense"))
    assert error.reason == "SecretInvalid"


def test_own_authority(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "localhost")
    tls = {"DVCR__REGISTRY__TLS__CERTIFICATE_FILE": str(certificate), "DVCR__REGISTRY__TLS__KEY_FILE": str(key)}
    with RegistryServer(tmp_path / "registry", tls) as server:
        pulls = Pulls(server.url.replace("127.0.0.1", "localhost"), tmp_path / "scratch", certificate)
        repository = pulls.client.repository("a/b")
        push_image(repository, [plain(tar(("disk/a", DISK)))])
        assert pulls.of(repository, ca_bundle=certificate.read_text()) == DISK
        error = pulls.failure(repository)
        assert error.reason == "SourceUntrusted"
        assert "caBundle" in error.message


def test_logins_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text('#!/bin/sh\nread host\necho "{\\"Username\\": \\"u-$host\\", \\"Secret\\": \\"p\\"}"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    auth = base64.b64encode(b"me:p:w").decode()
    hub = base64.b64encode(b"hub:x").decode()
    config = {
        "auths": {
            "a.example": {"auth": auth},
            "https://index.docker.io/v1/": {"auth": hub},
            "k.example/team": {"username": "team", "password": "t"},
            "k.example": {"username": "all", "password": "a"},
        },
        "credHelpers": {"h.example": "test"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert login_of_user("a.example", "x") == ("me", "p:w")
    assert login_of_user("docker.io", "library/x") == ("hub", "x")
    assert login_of_user("k.example", "team/x") == ("team", "t")
    assert login_of_user("k.example", "teams/x") == ("all", "a")
    assert login_of_user("h.example", "x") == ("u-h.example", "p")
    assert login_of_user("nobody.example", "x") == ("", "")
    assert login_in(json.dumps(config), "h.example", "x") == ("", ""), "a pull secret runs no program"


@needs("buildah")
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_container_disk_as_people_build_them(pulls: Pulls, tmp_path: Path, compression: str) -> None:
    (tmp_path / "a.img").write_bytes(DISK)
    (tmp_path / "Containerfile").write_text("FROM scratch\nADD --chown=107:107 a.img /disk/\n")
    name = f"{pulls.host}/containers/built-{uuid.uuid4().hex}:1"
    storage = ["--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs"]
    with ExitStack() as stack:
        stack.callback(lambda: run("buildah", *storage, "rmi", "--all", "--force"))
        run("buildah", *storage, "build", "--isolation", "chroot", "-t", name, str(tmp_path))
        run("buildah", *storage, "push", "--tls-verify=false", "--compression-format", compression, name)
    assert pulls.disk(name) == DISK
