"""Disks that come, grow and go while a guest runs: what the guest sees of it."""

import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from controller.launcher import qcow2
from controller.launcher.spec import DiskSpec, DiskStatus, DiskWishes, ImageReference, MachineState
from tests.support.image_server import ImageServer, image_server
from tests.support.machine import LauncherPod, guest_disk, machine_spec

__all__ = ["guest_disk", "image_server"]

pytestmark = pytest.mark.timeout(600)  # guests under emulation
MIB = 2**20
TIMEOUT_S = 180
# Says which disks there are, each with its serial number and its size in sectors, whenever that changes.
WATCH_DISKS = r"""#!/bin/sh
disks() {
    for disk in /sys/class/block/vd?; do
        [ -n "$(cat "$disk/serial")" ] && echo -n " ${disk##*/}=$(cat "$disk/serial"):$(cat "$disk/size")"
    done
}
while :; do
    now=$(disks)
    [ "$now" = "$last" ] || echo "DVCR-GUEST disks$now."
    last=$now
    usleep 100000
done >/dev/ttyS0 &
"""


class Plugging:
    """A pod with a guest that tells of its disks."""

    def __init__(self, pod: LauncherPod) -> None:
        self.pod = pod

    def want(self, *disks: DiskSpec, **sizes_mib: int) -> None:
        sizes = {name: size * MIB for name, size in sizes_mib.items()}
        self.pod.request("PUT", "/disks", DiskWishes(plugged=disks, sizes_bytes=sizes).model_dump_json())

    def guest_has(self, *disks: str) -> None:
        """Wait until the guest's last word is that it has these disks, as name=serial:MiB."""
        sectors = [f"{disk.rpartition(':')[0]}:{int(disk.rpartition(':')[2]) * 2048}" for disk in disks]
        text = f"DVCR-GUEST disks {' '.join(sectors)}."

        def last_word() -> str:
            _, mark, told = self.pod.console().rpartition("DVCR-GUEST disks")
            return mark + told.partition(".")[0] + "."

        self.pod.wait_until(lambda: last_word() == text, TIMEOUT_S, repr(text))

    def status(self, name: str) -> DiskStatus | None:
        return next((disk for disk in self.pod.status().disks if disk.name == name), None)

    def until(self, name: str, **fields: Any) -> DiskStatus:
        def reached() -> bool:
            status = self.status(name)
            return status is not None and all(getattr(status, key) == value for key, value in fields.items())

        self.pod.wait_until(reached, TIMEOUT_S, f"{name} {fields}; it is {self.status(name)}")
        status = self.status(name)
        assert status is not None
        return status

    def until_gone(self, name: str) -> None:
        self.pod.wait_until(lambda: self.status(name) is None, TIMEOUT_S, f"end of {name}")


def disk(name: str, **changes: Any) -> DiskSpec:
    values = {"name": name, "kind": "disk", "path": f"/disks/{name}/disk.qcow2", "size_bytes": 16 * MIB}
    return DiskSpec.model_validate(values | {"hotplug": True} | changes)


def volume(pod: LauncherPod, name: str) -> Path:
    """Mount the disk's volume, as the node does."""
    folder = pod.root / "disks" / name
    folder.mkdir(parents=True)
    return folder / "disk.qcow2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / f"m{random.getrandbits(32):08x}"
    folder.mkdir()
    return folder


def boot(folder: Path, guest_disk: Path, settings: dict[str, str], *more: DiskSpec) -> LauncherPod:
    system = folder / "root/disks/system/disk.qcow2"
    if not system.exists():
        system.parent.mkdir(parents=True)
        system.write_bytes(guest_disk.read_bytes())
    cloud_init = {"user_data": WATCH_DISKS, "instance_id": "i", "hostname": "h"}
    disks = [disk("system", hotplug=False, size_bytes=256 * MIB), *more]
    spec = machine_spec(folder, disks=disks, cloud_init=cloud_init)
    return LauncherPod(folder, spec, {"DVCR__LAUNCHER__ACCELERATOR": "tcg"} | settings)


def test_disks_come_grow_and_go_under_a_running_guest_and_are_there_after_a_restart(
    tmp_path: Path, folder: Path, guest_disk: Path
) -> None:
    settings = {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache")}
    with boot(folder, guest_disk, settings) as pod:
        plugging = Plugging(pod)
        plugging.guest_has("vda=system:256")

        # A volume that is not mounted yet is waited for, and no disk is made in its place.
        plugging.want(disk("data"))
        waiting = plugging.until("data", attached=False, message="waits for its volume to be mounted")
        assert waiting.hotplug
        assert not (pod.root / "disks/data").exists()
        data = volume(pod, "data")
        attached = plugging.until("data", attached=True, message="")
        assert (attached.port, attached.target, attached.size_bytes) == (0, "vdc", 16 * MIB)
        plugging.guest_has("vda=system:256", "vdc=data:16")
        assert qcow2.read_header(data).virtual_size_bytes == 16 * MIB

        # Both a disk from the start and a plugged one grow; what the guest runs on does not stop.
        plugging.want(disk("data"), data=24, system=300)
        plugging.guest_has("vda=system:300", "vdc=data:24")
        assert plugging.until("data", size_bytes=24 * MIB).message == ""

        volume(pod, "logs")
        plugging.want(disk("data"), disk("logs"))
        plugging.guest_has("vda=system:300", "vdc=data:24", "vdd=logs:16")
        plugging.want(disk("logs"))
        plugging.guest_has("vda=system:300", "vdd=logs:16")
        plugging.until_gone("data")
        assert plugging.until("logs", attached=True).port == 1
        assert subprocess.run(["qemu-img", "check", data], capture_output=True, check=False).returncode == 0
        pod.terminate()

    # A machine that starts with a disk on a port lets it go again.
    with boot(folder, guest_disk, settings, disk("logs"), disk("data", size_bytes=32 * MIB)) as pod:
        plugging = Plugging(pod)
        plugging.guest_has("vda=system:300", "vdc=logs:16", "vdd=data:32")
        assert (plugging.until("data", attached=True).port, plugging.until("logs", attached=True).port) == (1, 0)
        plugging.want(disk("data"))
        plugging.guest_has("vda=system:300", "vdd=data:32")
        plugging.until_gone("logs")
        plugging.want(disk("data"), disk("logs"))
        plugging.guest_has("vda=system:300", "vdc=logs:16", "vdd=data:32")
        pod.terminate()


def test_a_disk_from_an_image_is_usable_at_once_grows_while_it_is_copied_and_takes_its_copy_elsewhere(
    tmp_path: Path, folder: Path, guest_disk: Path, image_server: ImageServer
) -> None:
    settings = {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache")} | image_server.settings
    raw = tmp_path / "disk.raw"
    raw.write_bytes(random.randbytes(40 * MIB))
    image: ImageReference = image_server.publish("vmi/data", raw)
    image_server.blob_delay_s = 0.5
    with boot(folder, guest_disk, settings) as pod:
        plugging = Plugging(pod)
        path = volume(pod, "data")
        plugging.guest_has("vda=system:256")
        plugging.want(disk("data", image=image, size_bytes=0))
        copying = plugging.until("data", attached=True)
        assert copying.streamed_percent < 100
        plugging.want(disk("data", image=image, size_bytes=0), data=64)
        plugging.guest_has("vda=system:256", "vdc=data:64")
        plugging.want()
        plugging.guest_has("vda=system:256")
        plugging.until_gone("data")
        assert qcow2.read_header(path).backing == f"dvcr:{image.repository}@{image.digest}"

        image_server.blob_delay_s = 0
        plugging.want(disk("data", image=image, size_bytes=0))
        plugging.until("data", attached=True, streamed_percent=100)
        plugging.want()
        plugging.until_gone("data")

        # Another disk of the same name and image is copied as well.
        other, path = path, path.rename(tmp_path / "first.qcow2")
        plugging.want(disk("data", image=image, size_bytes=0))
        plugging.until("data", attached=True, streamed_percent=100)
        assert qcow2.read_header(other).backing is None
        pod.terminate()
    assert qcow2.read_header(path) == qcow2.Qcow2Header(64 * MIB, None)
    read = subprocess.run(
        ["qemu-img", "dd", "-f", "qcow2", "-O", "raw", "bs=1M", "count=40", f"if={path}", f"of={tmp_path / 'back'}"],
        check=False, capture_output=True,
    )  # fmt: skip
    assert read.returncode == 0
    assert (tmp_path / "back").read_bytes() == raw.read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="a loop device needs root")
def test_a_disk_on_a_block_device(tmp_path: Path, folder: Path, guest_disk: Path) -> None:
    settings = {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache")}
    file = tmp_path / "device"
    with file.open("wb") as out:
        out.truncate(24 * MIB)
    losetup = ["losetup", "--find", "--show", str(file)]
    device = subprocess.run(losetup, capture_output=True, text=True, check=True).stdout.strip()
    try:
        with boot(folder, guest_disk, settings) as pod:
            plugging = Plugging(pod)
            plugging.guest_has("vda=system:256")
            plugging.want(disk("raw", device=True))
            plugging.until("raw", attached=False, message="waits for its volume to be mounted")
            (pod.root / "disks/raw").mkdir()
            (pod.root / "disks/raw/disk.qcow2").symlink_to(device)
            plugging.guest_has("vda=system:256", "vdc=raw:16")
            plugging.want()
            plugging.until_gone("raw")
            pod.terminate()
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    assert qcow2.read_header(file).virtual_size_bytes == 16 * MIB


def test_a_guest_that_is_not_there_yet_is_asked_again(tmp_path: Path, folder: Path) -> None:
    """Firmware without a system never answers; the machine can still be told otherwise, and switched off."""
    settings = {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache"), "DVCR__LAUNCHER__ACCELERATOR": "tcg"}
    spec = machine_spec(folder, disks=[disk("system", hotplug=False)], grace_period_s=0)
    with LauncherPod(folder, spec, settings) as pod:
        plugging = Plugging(pod)
        pod.wait_for_state(MachineState.RUNNING)
        volume(pod, "data")
        plugging.want(disk("data"))
        plugging.until("data", attached=True, message="")
        plugging.want()
        plugging.until("data", attached=True, message="waits for the guest to let the disk go")
        plugging.want(disk("data"))
        plugging.until("data", attached=True, message="")
        pod.terminate()
