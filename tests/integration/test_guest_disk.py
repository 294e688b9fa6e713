"""The guest's disk as a file; that it boots is shown where the launcher is tested."""

import shutil
import subprocess
from pathlib import Path

import pytest

from demo import guest
from demo.disk import GuestError


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A cache with the unpacked packages, but with no disk in it."""
    guest.build(tmp_path / "warm-up.qcow2")
    cache = tmp_path / "cache"
    cache.mkdir()
    for folder in guest.DEFAULT_CACHE_DIR.glob("*.unpacked"):
        (cache / folder.name).symlink_to(folder)
    return cache


def test_the_same_packages_give_the_same_disk(packages: Path, tmp_path: Path) -> None:
    first = guest.build(tmp_path / "out" / "guest.qcow2", packages)
    other_cache = packages.rename(tmp_path / "other")
    for disk in other_cache.glob("guest-*.qcow2"):
        disk.unlink()
    second = guest.build(tmp_path / "again.qcow2", other_cache)

    assert first.read_bytes() == second.read_bytes()
    check = subprocess.run(["qemu-img", "check", "-f", "qcow2", str(first)], capture_output=True, check=False)
    assert check.returncode == 0
    assert not [path for path in other_cache.iterdir() if path.name.startswith("tmp")]


def test_a_missing_tool_is_named_with_the_command_that_installs_it(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def which(tool: str, path: str) -> str | None:
        return None if tool in ("mcopy", "mformat", "syslinux") else f"/usr/bin/{tool}"

    monkeypatch.setattr(shutil, "which", which)

    with pytest.raises(GuestError, match=r"^run as root: apt-get install -y mtools syslinux$"):
        guest.build(tmp_path / "guest.qcow2", packages)
    assert not (tmp_path / "guest.qcow2").exists()


def test_without_package_lists_the_error_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="run `apt-get update` as root"):
        guest.build(tmp_path / "guest.qcow2", tmp_path / "cache", "linux-image-that-does-not-exist")
