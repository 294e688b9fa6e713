"""Containers of the image under test, as confined as pods are on a cluster, under podman with a store of its own."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conformance.clients import run

# runc, since crun refuses machines that have both versions of cgroups. Low limits, since not everybody may raise them.
# No user is added to the image's own, and nothing in it can be written to.
CONFINED = (
    *("podman", "--runtime", "runc", "run", "--rm", "--network", "host", "--ulimit", "nofile=1024:1024"),
    *("--ulimit", "nproc=4096:4096", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--passwd=false"),
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp"),
)


@pytest.fixture(scope="module")
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
    out = [*CONFINED, "--user", f"{user}:{user}", *options]
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
