"""Disks that boot, built without root: a partition table, a FAT partition with boot loaders, and room for one more."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

MIB = 2**20
BOOT_START_BYTES = MIB
MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
TOOLS = {
    "sfdisk": "fdisk",
    "mke2fs": "e2fsprogs",
    "mformat": "mtools",
    "mcopy": "mtools",
    "mmd": "mtools",
    "syslinux": "syslinux",
    "qemu-img": "qemu-utils",
}


class GuestError(Exception):
    """The guest cannot be built here; the message says what to do."""


def require_tools(tools: Mapping[str, str] = TOOLS) -> None:
    """Raise GuestError, with the command that helps, unless the tools (by their packages) are there."""
    missing = {package for tool, package in tools.items() if shutil.which(tool, path=_PATH) is None}
    if not MBR.exists():
        missing.add("syslinux-common")
    if missing:
        raise GuestError(f"run as root: apt-get install -y {' '.join(sorted(missing))}")


def make_boot_disk(raw: Path, size_bytes: int, boot_size_bytes: int, files: Mapping[str, Path]) -> int:
    """Make `raw` a disk whose first partition has `files` and starts SYSLINUX; the second, empty, takes the rest.

    `files` are by their paths in the FAT partition. Gives the offset of the second partition in bytes.
    """
    with raw.open("wb") as disk:
        disk.truncate(size_bytes)
    rest = BOOT_START_BYTES + boot_size_bytes
    table = (
        f"label: dos\nlabel-id: 0x44564352\nunit: sectors\n"
        f"start={BOOT_START_BYTES // 512}, size={boot_size_bytes // 512}, type=c, bootable\n"
        f"start={rest // 512}, type=83\n"
    )
    run_tool("sfdisk", "--quiet", str(raw), stdin=table.encode())
    boot = f"{raw}@@{BOOT_START_BYTES}"
    geometry = f"-T {boot_size_bytes // 512} -h 64 -s 32 -H {BOOT_START_BYTES // 512}".split()
    run_tool("mformat", "-i", boot, *geometry, "-N", "44564352", "-v", "BOOT", "::")
    folders = {parent for name in files for parent in Path(name).parents if parent.name}
    if folders:
        run_tool("mmd", "-i", boot, *(f"::{folder}" for folder in sorted(folders)))
    for name, source in files.items():
        run_tool("mcopy", "-i", boot, str(source), f"::{name}")
    run_tool("syslinux", "--install", "--offset", str(BOOT_START_BYTES), str(raw))
    with raw.open("r+b") as disk:
        disk.write(MBR.read_bytes()[:440])
    return rest


# A user's PATH lacks the folders where Debian keeps the partitioning tools. The fixed times make equal disks equal.
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_ENVIRONMENT = os.environ | {
    "PATH": _PATH,
    "SOURCE_DATE_EPOCH": "1672531200",
    "E2FSPROGS_FAKE_TIME": "1672531200",
    "MTOOLS_SKIP_CHECK": "1",
    "LC_ALL": "C",
    "TZ": "UTC",
}


def run_tool(*command: str, stdin: bytes | None = None, cwd: Path | None = None) -> bytes:
    """The output of a command; GuestError with its complaint if it fails or is missing."""
    try:
        done = subprocess.run(command, input=stdin, cwd=cwd, env=_ENVIRONMENT, capture_output=True, check=False)
    except FileNotFoundError as exc:
        raise GuestError(f"{command[0]} is not installed") from exc
    if done.returncode:
        raise GuestError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
