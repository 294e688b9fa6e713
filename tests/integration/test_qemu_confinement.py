"""What the QEMU process of a real launcher may do, as the kernel tells it."""

import os
import pwd
import random
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.launcher.confinement import FIRST_UID, UIDS
from controller.launcher.spec import MachineState
from tests.support.machine import LauncherPod, machine_spec

MIB = 2**20
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give QEMU another user")


@pytest.fixture(scope="module")
def qemu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LauncherPod, Path]]:
    """A running machine with a disk and a drive for cloud-init, and its QEMU's folder in /proc."""
    folder = tmp_path_factory.mktemp("confinement") / f"m{random.getrandbits(32):08x}"
    folder.mkdir()
    disk = {"name": "system", "kind": "disk", "path": "/vol/disk.qcow2", "size_bytes": MIB}
    cloud_init = {"user_data": "", "instance_id": "i", "hostname": "h"}
    settings = {"DVCR__LAUNCHER__CACHE_DIR": str(folder / "cache"), "DVCR__LAUNCHER__ACCELERATOR": "tcg"}
    spec = machine_spec(folder, disks=[disk], cloud_init=cloud_init, grace_period_s=0)
    with LauncherPod(folder, spec, settings) as pod:
        pod.wait_for_state(MachineState.RUNNING)
        (pid,) = pod.qemu_pids()
        yield pod, Path(f"/proc/{pid}")


def status(qemu: Path) -> dict[str, str]:
    lines = (qemu / "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_qemu_cannot_gain_privileges_and_is_confined_to_its_system_calls(qemu: tuple[LauncherPod, Path]) -> None:
    told = status(qemu[1])

    assert told["NoNewPrivs"] == "1"
    assert told["Seccomp"] == "2"
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(told[capabilities], 16) == 0, capabilities


@as_root
def test_qemu_of_a_root_launcher_is_a_user_that_nothing_else_is(qemu: tuple[LauncherPod, Path]) -> None:
    told = status(qemu[1])
    (uid,) = set(told["Uid"].split())

    assert FIRST_UID <= int(uid) < FIRST_UID + UIDS
    assert set(told["Gid"].split()) == {uid}
    assert set(told["Groups"].split()) <= {str(Path("/dev/kvm").stat().st_gid) if Path("/dev/kvm").exists() else ""}
    assert int(told["CapBnd"], 16) == 0
    with pytest.raises(KeyError):
        pwd.getpwuid(int(uid))


def test_qemu_listens_on_nothing_but_sockets_in_a_folder_of_its_own(qemu: tuple[LauncherPod, Path]) -> None:
    inodes = {target.partition("[")[2].rstrip("]") for target in links(qemu[1]) if target.startswith("socket:")}
    unix = {fields[6]: fields[7] for fields in table(qemu[1] / "net/unix") if len(fields) > 7}

    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        assert not [fields for fields in table(qemu[1] / f"net/{protocol}") if fields[9] in inodes], protocol
    named = [Path(unix[inode]) for inode in inodes if inode in unix]
    assert {path.name for path in named} == {"vnc.sock", "agent.sock"}
    (folder,) = {path.parent for path in named}
    mode = stat.S_IMODE(folder.stat().st_mode)
    assert mode & stat.S_IRWXO == 0
    assert folder.stat().st_uid == os.geteuid()
    assert mode == (0o770 if os.geteuid() == 0 else 0o700)


@as_root
def test_other_users_cannot_reach_the_screen(qemu: tuple[LauncherPod, Path]) -> None:
    unix = {fields[7] for fields in table(qemu[1] / "net/unix") if len(fields) > 7 and fields[7].endswith("vnc.sock")}
    child = os.fork()
    if child == 0:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        refused = 0
        for path in unix:
            with socket.socket(socket.AF_UNIX) as viewer:
                try:
                    viewer.connect(path)
                except PermissionError:
                    refused += 1
        os._exit(0 if refused == len(unix) > 0 else 1)

    assert os.waitpid(child, 0)[1] == 0


def test_qemu_holds_no_file_but_its_disks_and_what_it_was_made_of(qemu: tuple[LauncherPod, Path]) -> None:
    files = {target for target in links(qemu[1]) if target.startswith("/")}

    allowed = {"/dev/null", "/dev/urandom", str(qemu[0].root / "vol/disk.qcow2")}
    assert {path for path in files - allowed if not path.endswith("/seed.iso")} == set()


def links(process: Path) -> list[str]:
    return [str(fd.readlink()) for fd in (process / "fd").iterdir()]


def table(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()[1:]]
