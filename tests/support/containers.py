"""Containers of the image under test, as confined as pods are on a cluster, under podman with a store of its own."""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from dvcr.digest import Digest
from tests.conformance.clients import needs, run
from tests.support.registry import RegistryServer

# runc, since crun refuses machines that have both versions of cgroups. Low limits, since not everybody may raise them.
# No user is added to the image's own, and nothing in it can be written to.
_CONFINED = (
    *("podman", "--runtime", "runc", "run", "--rm", "--network", "host", "--ulimit", "nofile=1024:1024"),
    *("--ulimit", "nproc=4096:4096", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--passwd=false"),
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp"),
)
# Process 1 of a container ends by SIGTERM only if it wants to.
END_TIMEOUT_S = 10
START_TIMEOUT_S = 30
ROOT = Path(__file__).parents[2]

NEEDS = [
    pytest.mark.container,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="mmdebstrap and buildah are used as root"),
    *(needs(program) for program in ("buildah", "mmdebstrap", "podman", "runc", "skopeo")),
]
"""Marks of every test of the image."""


@pytest.fixture(scope="session")
def container_storage() -> Iterator[None]:
    """podman, buildah and skopeo keep images and containers apart from the user's own, and none when this ends."""
    # podman's runroot has at most 50 characters.
    folder = Path(tempfile.mkdtemp(prefix="dvcr-images-", dir="/var/tmp"))
    path = folder / "storage.conf"
    path.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/store"\nrunroot = "{folder}/run"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_STORAGE_CONF", str(path))
        yield
        run("podman", "rm", "--all", "--force")
        run("podman", "image", "umount", "--all")
        run("buildah", "rm", "--all")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def container_builds(container_storage: None, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The ids of two images of this checkout, built at the same time."""
    folder = tmp_path_factory.mktemp("builds")
    processes = []
    for name in ("one", "two"):
        with (folder / name).open("wb") as log:
            command = [str(ROOT / "scripts/container-image"), f"dvcr:{name}"]
            processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
    codes = [process.wait() for process in processes]
    assert codes == [0, 0], (folder / ("one" if codes[0] else "two")).read_text()[-3000:]
    return [image_id(f"localhost/dvcr:{name}") for name in ("one", "two")]


@pytest.fixture(scope="session")
def container_image(
    container_builds: list[str], registry_server: RegistryServer, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The image, by way of our registry."""
    digest_file = tmp_path_factory.mktemp("push") / "digest"
    there = f"docker://{registry_server.address}/dvcr/image:one"
    here = "containers-storage:localhost/pulled:one"
    run("buildah", "push", "--tls-verify=false", "--digestfile", digest_file, "localhost/dvcr:one", there)
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", there)
    assert str(Digest.of(raw.encode())) == digest_file.read_text()
    run("skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", there, here)
    assert image_id("localhost/pulled:one") == container_builds[0]
    return "localhost/pulled:one"


def image_id(image: str) -> str:
    return run("buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}", image).strip()


def container(
    image: str,
    *command: str,
    user: int = 10001,
    environment: Iterable[str] = (),
    mounts: Mapping[Path, str] | None = None,
    options: Iterable[str] = (),
) -> list[str]:
    """How to run `command`, whose first word takes the place of the entry point, with the caller's `environment` of
    those names (or NAME=VALUE), and `mounts` of the machine's paths."""
    out = [*_CONFINED, "--user", f"{user}:{user}", *options]
    for name in environment:
        out += ["--env", name]
    for path, place in (mounts or {}).items():
        out += ["--volume", f"{path}:{place}"]
    return [*out, "--entrypoint", command[0], image, *command[1:]]


def output(command: list[str]) -> str:
    """What the container prints, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Role:
    """A container that runs one of our servers; `said` is the rest of its first line."""

    def __init__(self, process: subprocess.Popen[str], said: str) -> None:
        self.said = said
        self._process = process

    def stop(self) -> int:
        """SIGTERM, as a cluster ends a pod; the exit code, which must come soon."""
        self._process.terminate()
        return self._process.wait(END_TIMEOUT_S)


@contextmanager
def started(command: list[str], first_line: str) -> Iterator[Role]:
    """The container, once it has said that."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
            watchdog.start()
            line = process.stdout.readline()
            watchdog.cancel()
            assert line.startswith(first_line), f"the container did not start: {line!r}"
            yield Role(process, line.removeprefix(first_line).strip())
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(END_TIMEOUT_S)
