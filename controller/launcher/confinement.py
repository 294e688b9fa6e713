"""The user and the privileges that QEMU runs with.

QEMU needs nothing of what a launcher may do: it gets its disks as open files, and its other files and sockets in a
private folder. So it never gains a privilege, and a launcher that runs as root (the embedded cluster's node agent often
does) starts it as a user that nothing else on the machine runs as, without any capability.
"""

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# No system gives out user ids from here on: see systemd's documentation on users, groups and ids.
FIRST_UID, UIDS = 0x70000000, 2**24
# In a user namespace that maps fewer ids.
NOBODY = 65534
KVM_DEVICE = Path("/dev/kvm")
# The bits of linux/capability.h.
_CAP_CHOWN, _CAP_SETGID, _CAP_SETUID, _CAP_SETPCAP = (1 << number for number in (0, 6, 7, 8))
_TO_CHANGE_USERS = _CAP_CHOWN | _CAP_SETGID | _CAP_SETUID | _CAP_SETPCAP


@dataclass(frozen=True, slots=True)
class Confinement:
    """How QEMU is started; `uid` is also its group, None where it stays the launcher's user."""

    uid: int | None = None
    groups: tuple[int, ...] = ()
    drops_bounding_set: bool = False
    """Whether the launcher may take away what a program that root starts would get anew."""

    @classmethod
    def of(cls, machine_uid: str) -> "Confinement":
        """For this process: another user for every machine where that is possible."""
        capabilities = _capabilities()
        drops = bool(capabilities & _CAP_SETPCAP)
        if os.geteuid() != 0 or capabilities & _TO_CHANGE_USERS != _TO_CHANGE_USERS:
            return cls(drops_bounding_set=drops)
        digest = hashlib.sha256(machine_uid.encode()).digest()
        uid = FIRST_UID + int.from_bytes(digest[:8]) % UIDS
        return cls(uid if _is_mapped(uid) else NOBODY, _device_groups(KVM_DEVICE), drops)

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command that runs `arguments` so confined, to be killed by the kernel when the launcher dies."""
        out = ["setpriv", "--pdeathsig", "KILL", "--no-new-privs", "--inh-caps", "-all", "--ambient-caps", "-all"]
        if self.uid is not None:
            groups = ("--groups", ",".join(map(str, self.groups))) if self.groups else ("--clear-groups",)
            out += ["--reuid", str(self.uid), "--regid", str(self.uid), *groups]
        if self.drops_bounding_set:
            out += ["--bounding-set", "-all"]
        return [*out, "--", *arguments]

    def admit(self, folder: Path) -> None:
        """Let QEMU make and remove files in a folder of the launcher's; nobody else gets in."""
        folder.chmod(0o700)
        if self.uid is not None:
            os.chown(folder, -1, self.uid)
            folder.chmod(0o770)

    def give(self, path: Path) -> Path:
        """Make a file or a socket in that folder QEMU's; returns the path."""
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)
        return path

    def reaches(self, folder: Path) -> bool:
        """Whether QEMU could get to a place in `folder`, going by the folders above it that exist."""
        if self.uid is None:
            return True
        above = [path for path in (folder, *folder.parents) if path.exists()]
        return all(path.stat().st_mode & stat.S_IXOTH for path in above)


def _capabilities() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)


def _is_mapped(uid: int) -> bool:
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= uid < first + count:
            return True
    return False


def _device_groups(device: Path) -> tuple[int, ...]:
    """The group that may use the device, if it has one that is not root's."""
    try:
        found = device.stat()
    except OSError:
        return ()
    open_to_group = found.st_mode & (stat.S_IRGRP | stat.S_IWGRP) == stat.S_IRGRP | stat.S_IWGRP
    return (found.st_gid,) if open_to_group and found.st_gid else ()
