"""The launcher with a guest in it: from the artifact to a machine that boots, obeys and starts again."""

import asyncio
import random
import subprocess
from pathlib import Path
from typing import Any

import aiohttp

from controller.launcher import qcow2
from controller.launcher.main import run_dir
from controller.launcher.spec import MachineState, TerminationReason
from tests.support.image_server import ImageServer, image_server
from tests.support.machine import LauncherPod, guest_disk, machine_spec

__all__ = ["guest_disk", "image_server"]

MIB = 2**20
USER_DATA = "#cloud-config\nhostname: blue\nruncmd:\n  - echo DVCR-GUEST marker=seen\n"


def test_from_the_registry_to_a_disk_that_stands_alone_and_boots_again(
    tmp_path: Path, guest_disk: Path, image_server: ImageServer
) -> None:
    settings = {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache")}
    system_raw, data_raw = tmp_path / "system.raw", tmp_path / "data.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", guest_disk, system_raw], check=True)
    data_raw.write_bytes(random.randbytes(9 * MIB))
    system = image_server.publish("vmi/system", system_raw)
    boot_sector = next(iter(image_server.registry.blobs["vmi/system"]))
    data = image_server.publish("vmi/data", data_raw)
    disks: list[dict[str, Any]] = [
        {"name": "system", "kind": "disk", "path": "/system/disk.qcow2", "image": system.model_dump()},
        {"name": "data", "kind": "disk", "path": "/data/disk.qcow2", "image": data.model_dump()},
        {"name": "tools", "kind": "image", "image": data.model_dump(), "cdrom": True},
    ]
    cloud_init = {"user_data": USER_DATA, "instance_id": "i-1", "hostname": "red"}
    folder = tmp_path / "first"
    folder.mkdir()
    spec = machine_spec(folder, disks=disks, cloud_init=cloud_init)

    # The chunk with the boot sector is damaged: the guest waits until it is whole.
    image_server.spoil_blob(boot_sector)
    with LauncherPod(folder, spec, settings | image_server.settings) as pod:
        paused = pod.wait_for_state(MachineState.PAUSED)
        pod.wait_until(lambda: boot_sector in pod.status().message, 10, "word of the damaged chunk")
        assert "DVCR-GUEST" not in pod.console()
        image_server.spoil_blob(boot_sector)
        pod.wait_for_state(MachineState.RUNNING)

        console = pod.wait_for_console("DVCR-GUEST ready")
        pod.wait_until(lambda: all(d.streamed_percent == 100 for d in pod.status().disks), 60, "complete copies")
        assert pod.terminate().reason is TerminationReason.STOPPED

    assert paused.disks[0].streamed_percent < 100
    assert "DVCR-GUEST boot=1" in console
    assert "DVCR-GUEST hostname=blue" in console
    assert "DVCR-GUEST marker=seen" in console
    assert "DVCR-GUEST address=10.0.2.15" in console
    assert "DVCR-GUEST power button" in pod.console()
    for name in ("system", "data"):
        assert qcow2.read_header(folder / f"root/{name}/disk.qcow2").backing is None
    compare: list[str | Path] = [
        "qemu-img",
        "compare",
        "-f",
        "raw",
        "-F",
        "qcow2",
        data_raw,
        folder / "root/data/disk.qcow2",
    ]
    assert subprocess.run(compare, check=False).returncode == 0

    # Again, larger, and with no registry any more.
    (folder / "root/etc/dvcr/machine.json").write_text(
        machine_spec(folder, disks=[disks[0] | {"size_bytes": 300 * MIB}]).model_dump_json()
    )
    with pod:
        console = pod.wait_for_console("DVCR-GUEST ready")
        asyncio.run(use_the_console(pod))
        assert pod.wait().reason is TerminationReason.GUEST_SHUTDOWN

    assert "DVCR-GUEST boot=2" in console
    assert "DVCR-GUEST hostname=guest" in console
    assert not run_dir(pod.root).exists()


async def use_the_console(pod: LauncherPod) -> None:
    """Two onlookers: both see what came before and what one of them types; then the guest is switched off."""
    url = f"{pod.url}/console"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url) as first,
        session.ws_connect(url) as second,
        asyncio.timeout(30),
    ):
        await read_until(first, b"DVCR-GUEST ready")
        await read_until(second, b"DVCR-GUEST ready")
        await first.send_bytes(b"echo sectors=$(cat /sys/class/block/vda/size)\n")
        for onlooker in (first, second):
            await read_until(onlooker, b"sectors=%d" % (300 * MIB // 512))
        await second.send_bytes(b"poweroff\n")
        await read_until(first, b"DVCR-GUEST poweroff")
        while not first.closed:
            await first.receive()


async def read_until(socket: aiohttp.ClientWebSocketResponse, text: bytes) -> None:
    seen = b""
    while text not in seen:
        seen += await socket.receive_bytes()


def test_a_reboot_from_inside_ends_the_process_with_that_reason(tmp_path: Path, guest_disk: Path) -> None:
    folder = tmp_path / "reboots"
    disk = folder / "root/disk.qcow2"
    disk.parent.mkdir(parents=True)
    disk.write_bytes(guest_disk.read_bytes())
    cloud_init = {"user_data": "#!/bin/sh\nreboot\n", "instance_id": "i", "hostname": "h"}
    spec = machine_spec(
        folder, disks=[{"name": "system", "kind": "disk", "path": "/disk.qcow2"}], cloud_init=cloud_init
    )
    with LauncherPod(folder, spec, {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache")}) as pod:
        termination = pod.wait()

    assert termination.reason is TerminationReason.GUEST_RESET
    assert pod.process.returncode == 0
