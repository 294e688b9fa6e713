"""The folder for a machine's sockets, which only its launcher and its QEMU can enter."""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controller.launcher.confinement import Confinement
from dvcr.errors import ConfigError

# sockaddr_un holds 108 bytes; the longest name in the folder needs 12.
MAX_LENGTH = 90
# Not TMPDIR, which may be as long.
ELSEWHERE = Path("/tmp")  # noqa: S108 (what is made there has mode 0700, and its owner is checked)
ROOT_FILE = "pod-root"
"""In a folder elsewhere: the pod that it belongs to."""


def run_dir(root: Path, confinement: Confinement) -> Path:
    """Its path: in the pod, unless that is too long for the address of a socket, or below a folder that QEMU's user may
    not enter."""
    folder = root / "run/dvcr"
    if len(str(folder)) <= MAX_LENGTH and confinement.reaches(folder):
        return folder
    return ELSEWHERE / f"{_prefix()}{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"


@contextmanager
def private_folder(root: Path, confinement: Confinement) -> Iterator[Path]:
    """The folder while the context is entered, emptied of what a killed predecessor left.

    What killed launchers left elsewhere goes with their pods: whoever comes next removes it. Raises ConfigError if the
    folder is somebody else's.
    """
    folder = run_dir(root, confinement)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(folder):
        raise ConfigError(f"{folder} belongs to somebody else; remove it")
    confinement.admit(folder)
    _empty(folder)
    if folder.parent == ELSEWHERE:
        (folder / ROOT_FILE).write_text(str(root.absolute()))
        _remove_abandoned()
    try:
        yield folder
    finally:
        _empty(folder)
        folder.rmdir()


def _remove_abandoned() -> None:
    for folder in ELSEWHERE.glob(f"{_prefix()}*"):
        try:
            pod_root = Path((folder / ROOT_FILE).read_text())
        except OSError:
            # Being made or being removed by its own launcher.
            continue
        if _is_ours(folder) and not pod_root.exists():
            shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _prefix() -> str:
    return f"dvcr-{os.getuid()}-"


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
