"""The container image: built twice, pushed to our registry, pulled from it, and every role started as on a cluster."""

import importlib.util
import json
import os
import stat
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urljoin

import pytest
import requests

from controller.launcher.spec import MachineState, NetworkStatus, TerminationReason
from controller.machines.security import USER_ID
from dvcr.digest import Digest
from dvcr.jobs.redis import RedisJobBoard
from tests.conformance.clients import run
from tests.support.containers import NEEDS, container, output, started
from tests.support.file_server import serving
from tests.support.image_server import ImageServer, image_server
from tests.support.images import build_image
from tests.support.imports import World, disk, sha256
from tests.support.machine import LauncherPod, guest_disk, machine_spec
from tests.support.redis import RedisServer
from tests.support.registry import RegistryServer

__all__ = ["guest_disk", "image_server"]

pytestmark = NEEDS
USER = 10001
# Which Debian's kernels boot on under UEFI and emulation.
NEHALEM = {"type": "Model", "model": "Nehalem"}


@pytest.fixture(scope="module")
def files(container_image: str) -> Path:
    """The image's root, only to be read."""
    return Path(run("podman", "image", "mount", container_image).strip())


def test_two_builds_of_a_commit_are_the_same_image(container_builds: list[str]) -> None:
    assert container_builds[0] == container_builds[1]


def test_the_image_says_what_it_is(container_image: str) -> None:
    config = json.loads(run("podman", "image", "inspect", container_image))[0]["Config"]
    labels = config["Labels"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["dvcr"]
    assert labels["org.opencontainers.image.title"] == "DVCR"
    assert labels["org.opencontainers.image.revision"].startswith(run("git", "rev-parse", "HEAD").strip())
    assert labels["org.opencontainers.image.version"] == version("dvcr")


def test_nothing_of_the_machine_that_built_it_is_in_the_image(files: Path) -> None:
    assert not list((files / "etc/apt/sources.list.d").iterdir())
    assert not (files / "etc/apt/sources.list").exists()
    assert not (files / "etc/pip.conf").exists()
    assert (files / "etc/resolv.conf").read_text() == ""
    assert not [path for path in (files / "run").rglob("*") if path.is_file() and path.stat().st_size]


def test_there_is_no_compiler_and_no_way_to_more_privileges_in_the_image(files: Path) -> None:
    programs = {path.name for folder in ("usr/bin", "opt/dvcr/bin") for path in (files / folder).iterdir()}
    assert {"dvcr", "dvcr-launcher", "qemu-img", "qemu-system-x86_64", "passt", "setpriv"} <= programs
    assert not programs & {"cc", "gcc", "g++", "make", "pip", "pip3"}
    regular = [(path, path.lstat()) for path in files.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path, found in regular if found.st_mode & (stat.S_ISUID | stat.S_ISGID)]
    assert not [path for path, found in regular if found.st_uid == USER or found.st_mode & stat.S_IWOTH]


def test_bytecode_is_there_for_every_module_and_compared_with_no_source(files: Path) -> None:
    package = files / "opt/dvcr/lib/python3.11/site-packages/dvcr"
    for module in package.rglob("*.py"):
        compiled = Path(importlib.util.cache_from_source(str(module)))
        # PEP 552: the bit for a hash, without the one for a check against the source.
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", module


def test_the_version(container_image: str) -> None:
    assert output(container(container_image, "dvcr", "--version")) == f"dvcr {version('dvcr')}\n"


@pytest.mark.parametrize("role", ["serve", "worker", "uploader", "controller"])
def test_every_role_is_there(container_image: str, role: str) -> None:
    assert f"dvcr {role} " in output(container(container_image, "dvcr", role, "--help"))


def test_the_registry_serves_from_a_volume_and_ends_at_once(container_image: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, USER, USER)
    environment = ["DVCR__STORAGE__FILESYSTEM__ROOT=/var/lib/dvcr"]
    mounts = {data: "/var/lib/dvcr"}
    serve = container(container_image, "dvcr", "serve", "--port", "0", environment=environment, mounts=mounts)
    content = b"kept"
    digest = Digest.of(content)

    with started(serve, "listening on ") as server:
        url = server.said
        assert requests.get(f"{url}/v2/", timeout=10).status_code == 200
        session = requests.post(f"{url}/v2/a/blobs/uploads/", timeout=10)
        location = urljoin(url, session.headers["Location"])
        put = requests.put(location, params={"digest": str(digest)}, data=content, timeout=10)
        assert put.status_code == 201
        assert server.stop() == 0
    with started(serve, "listening on ") as server:
        assert requests.get(f"{server.said}/v2/a/blobs/{digest}", timeout=10).content == content
        assert server.stop() == 0

    owners = {path.stat().st_uid for path in data.rglob("*")}
    assert owners == {USER}


def test_a_worker_imports_with_qemu_img_in_its_sandbox(
    container_image: str, open_redis: RedisServer, registry_server: RegistryServer, tmp_path: Path
) -> None:
    environment = [
        f"DVCR__BROKER__URL={open_redis.url}",
        f"DVCR__CLIENT__URL={registry_server.url}",
        "DVCR__IMPORTER__SCRATCH_DIR=/tmp/scratch",
        "DVCR__IMPORTER__SOURCE_ADDRESSES=any",
    ]
    mounts = {open_redis.socket.parent: str(open_redis.socket.parent)}
    raw = disk()
    with (
        serving(build_image(tmp_path, raw, "vdi")) as server,
        started(
            container(container_image, "dvcr", "worker", environment=environment, mounts=mounts), "worker ready"
        ) as worker,
    ):
        world = World(RedisJobBoard.from_settings(open_redis.settings()), registry_server, server)
        job = world.submit("cvmi/vdi", sha256(server.content))
        assert world.succeeded(job, timeout_s=60) == raw
        assert worker.stop() == 0

    program = "from converter.qemu_img import sandbox_layers; print(*sandbox_layers())"
    assert {"landlock", "seccomp"} <= set(output(container(container_image, "python", "-c", program)).split())


def test_an_uploader_ends_at_once(
    container_image: str, open_redis: RedisServer, registry_server: RegistryServer
) -> None:
    environment = [
        f"DVCR__BROKER__URL={open_redis.url}",
        f"DVCR__CLIENT__URL={registry_server.url}",
        "DVCR__UPLOADER__PORT=0",
    ]
    mounts = {open_redis.socket.parent: str(open_redis.socket.parent)}
    command = container(container_image, "dvcr", "uploader", environment=environment, mounts=mounts)
    with started(command, "listening on ") as uploader:
        assert requests.get(f"{uploader.said}/healthz", timeout=10).status_code == 200
        assert uploader.stop() == 0


def test_a_machine_runs_in_its_pod(
    container_image: str, image_server: ImageServer, guest_disk: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "machine"
    root = folder / "root"
    writable = ("disks", "run", "var/cache/dvcr")
    for name in ("dev", *writable):
        (root / name).mkdir(parents=True)
    (root / "dev/termination-log").touch()
    for name in ("dev/termination-log", *writable):
        os.chown(root / name, USER_ID, USER_ID)
    reference = image_server.publish("vmi/system", guest_disk)
    disks = [{"name": "system", "kind": "disk", "path": "/disks/system.qcow2", "image": reference.model_dump()}]
    spec = machine_spec(folder, disks=disks, bootloader="EFIWithSecureBoot", processor=NEHALEM)
    settings = image_server.settings | {
        "DVCR_POD_ROOT": "/",
        "DVCR__LAUNCHER__ACCELERATOR": "tcg",
        "DVCR__LAUNCHER__CACHE_DIR": "/var/cache/dvcr",
        "DVCR__LAUNCHER__NETWORK": "passt",
        # In the machine's own network lower ones are not everybody's.
        "DVCR__LAUNCHER__GUEST_TCP_PORTS": "2222",
        "DVCR__LAUNCHER__GUEST_UDP_PORTS": "5353",
    }
    command = container(
        container_image,
        "dvcr-launcher",
        user=USER_ID,
        environment=[*settings, "POD_IP"],
        mounts={root / name: f"/{name}" for name in ("etc/dvcr", "dev/termination-log", *writable)},
        # QEMU and passt have filters of their own.
        options=["--security-opt", "seccomp=unconfined"],
    )
    with LauncherPod(folder, spec, settings, command) as pod:
        pod.wait_for_console("DVCR-GUEST boot=1", 240)
        network = pod.wait_for_state(MachineState.RUNNING).network
        assert network == NetworkStatus(kind="passt")
        assert pod.terminate().reason is TerminationReason.STOPPED
