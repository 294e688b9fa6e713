"""Volumes of mode Block: a file of the node, shown as a block device where this process may do that (root, losetup).

Elsewhere the pod finds the file itself at its device's path, which is as good for what opens, reads and writes it.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import structlog

DEVICE_FILE = "device"
"""Name of the file in the volume's folder."""

_log = structlog.get_logger(__name__)


class BlockDevices:
    """The block devices over the files below `volumes_dir`; every method may be called again at any time."""

    def __init__(self, volumes_dir: Path) -> None:
        self._volumes_dir = volumes_dir.resolve()
        self._losetup = shutil.which("losetup", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")

    def create(self, volume: str, size_bytes: int) -> None:
        """Have the volume's file with at least that size; a device over it grows too."""
        file = self._file(volume)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < size_bytes:
                os.ftruncate(descriptor, size_bytes)
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for device in self._attached().get(volume, ()):
            self._run("--set-capacity", device)

    def open(self, volume: str) -> Path:
        """What a pod is to find at its device's path."""
        attached = self._attached().get(volume)
        if attached:
            return Path(attached[0])
        file = self._file(volume)
        device = self._run("--find", "--show", str(file)) if os.geteuid() == 0 else None
        return Path(device.strip()) if device else file

    def opened(self) -> set[str]:
        """The volumes that have a device."""
        return set(self._attached())

    def close(self, volume: str) -> None:
        """Take the volume's device away; one that is still in use goes with its last user."""
        for device in self._attached().get(volume, ()):
            self._run("--detach", device)

    def _file(self, volume: str) -> Path:
        return self._volumes_dir / volume / DEVICE_FILE

    def _attached(self) -> dict[str, list[str]]:
        """The loop devices over files of ours, by volume."""
        if os.geteuid() != 0:
            return {}
        found: dict[str, list[str]] = {}
        for entry in json.loads(self._run("--list", "--json") or "{}").get("loopdevices", ()):
            # A file that was removed under its device is told with this suffix.
            file = Path(entry["back-file"].removesuffix(" (deleted)"))
            if file.name == DEVICE_FILE and file.parent.parent == self._volumes_dir:
                found.setdefault(file.parent.name, []).append(entry["name"])
        return found

    def _run(self, *arguments: str) -> str | None:
        """The output of losetup; None where it is missing or not allowed to do that."""
        if self._losetup is None:
            return None
        done = subprocess.run([self._losetup, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            _log.info("losetup", arguments=arguments, error=done.stderr.strip())
            return None
        return done.stdout
