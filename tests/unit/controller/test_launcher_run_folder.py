import hashlib
import os
import shutil
from pathlib import Path

import pytest

from controller.launcher import run_folder
from controller.launcher.confinement import Confinement
from controller.launcher.run_folder import private_folder, run_dir

HERE = Confinement()


@pytest.fixture
def long_root(tmp_path: Path) -> Path:
    root = tmp_path / ("x" * 90) / hashlib.sha256(os.urandom(8)).hexdigest()
    root.mkdir(parents=True)
    return root


def test_the_folder_is_in_the_pod_and_gone_at_the_end() -> None:
    root = Path("/tmp") / f"pod-{os.urandom(4).hex()}"
    root.mkdir()

    with private_folder(root, HERE) as folder:
        assert folder == root / "run/dvcr"
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "vnc.sock").touch()

    assert not folder.exists()
    shutil.rmtree(root)


def test_a_long_path_or_a_closed_folder_above_makes_it_lie_elsewhere(long_root: Path, tmp_path: Path) -> None:
    assert run_dir(long_root, HERE).parent == run_folder.ELSEWHERE
    closed = Path("/tmp") / f"pod-{os.urandom(4).hex()}"
    closed.mkdir(mode=0o700)
    assert run_dir(closed, Confinement(1879048193)).parent == run_folder.ELSEWHERE
    closed.rmdir()


def test_what_a_predecessor_left_is_removed(long_root: Path) -> None:
    left = run_dir(long_root, HERE)
    left.mkdir()
    (left / "nbd.sock").touch()

    with private_folder(long_root, HERE) as folder:
        assert folder == left
        assert {path.name for path in folder.iterdir()} == {run_folder.ROOT_FILE}


def test_what_a_killed_launcher_left_goes_once_its_pod_is_gone(long_root: Path) -> None:
    other = long_root.with_name("other")
    other.mkdir()
    left = run_dir(other, HERE)
    left.mkdir()
    (left / run_folder.ROOT_FILE).write_text(str(other))
    (left / "seed.iso").touch()

    with private_folder(long_root, HERE):
        assert left.exists()
    other.rmdir()
    with private_folder(long_root, HERE):
        assert not left.exists()
