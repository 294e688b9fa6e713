"""The launcher with a guest in it: from the artifact to a machine that boots, obeys and starts again."""

import asyncio
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from controller.launcher import qcow2
from controller.launcher.confinement import Confinement
from controller.launcher.run_folder import run_dir
from controller.launcher.spec import ImageReference, MachineState, TerminationReason
from dvcr.artifact.image import Chunk
from dvcr.artifact.store import fetch
from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings
from dvcr.digest import Digest
from tests.support.image_server import ImageServer, image_server, publish_disk
from tests.support.machine import LauncherPod, guest_disk, machine_spec
from tests.support.registry import RegistryServer

__all__ = ["guest_disk", "image_server"]

MIB = 2**20
USER_DATA = r"""#cloud-config
hostname: blue
runcmd:
  - echo DVCR-GUEST marker=seen > /dev/console
  - "echo \"DVCR-GUEST double='quoted'\""
  - 'echo "DVCR-GUEST single=it''s"'
package_update: false
"""


def test_from_the_registry_to_a_disk_that_stands_alone_and_boots_again(
    tmp_path: Path, guest_disk: Path, fresh_registry: RegistryServer
) -> None:
    settings = {
        "DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache"),
        "DVCR__CLIENT__URL": fresh_registry.url,
    }
    registry = RegistryClient.from_settings(ClientSettings(url=fresh_registry.url))
    raw = tmp_path / "data.raw"
    raw.write_bytes(random.randbytes(9 * MIB))
    system, data = publish_disk(registry, "vmi/system", guest_disk), publish_disk(registry, "vmi/data", raw)
    disks: list[dict[str, Any]] = [
        {"name": "system", "kind": "disk", "path": "/system/disk.qcow2", "image": system.model_dump()},
        {"name": "data", "kind": "disk", "path": "/data/disk.qcow2", "image": data.model_dump()},
        {"name": "tools", "kind": "image", "image": data.model_dump(), "cdrom": True},
    ]
    cloud_init = {"user_data": USER_DATA, "instance_id": "i-1", "hostname": "red"}
    folder = tmp_path / "first"
    folder.mkdir()
    with LauncherPod(folder, machine_spec(folder, disks=disks, cloud_init=cloud_init), settings) as pod:
        pod.wait_for_state(MachineState.RUNNING)
        console = pod.wait_for_console("DVCR-GUEST ready")
        pod.wait_until(lambda: all(d.streamed_percent == 100 for d in pod.status().disks), 60, "complete copies")
        assert pod.terminate().reason is TerminationReason.STOPPED

    assert "DVCR-GUEST boot=1" in console
    assert "DVCR-GUEST hostname=blue" in console
    assert "DVCR-GUEST marker=seen" in console
    assert "DVCR-GUEST double='quoted'" in console
    assert "DVCR-GUEST single=it's" in console
    assert "DVCR-GUEST address=10.0.2.15" in console
    assert "DVCR-GUEST power button" in pod.console()
    for name in ("system", "data"):
        assert qcow2.read_header(folder / f"root/{name}/disk.qcow2").backing is None
    compare: list[str | Path] = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw]
    assert subprocess.run([*compare, folder / "root/data/disk.qcow2"], check=False).returncode == 0

    # Again, larger, and with no registry any more.
    fresh_registry.stop()
    (folder / "root/etc/dvcr/machine.json").write_text(
        machine_spec(folder, disks=[disks[0] | {"size_bytes": 300 * MIB}]).model_dump_json()
    )
    with pod:
        console = pod.wait_for_console("DVCR-GUEST ready")
        asyncio.run(use_the_console(pod))
        assert pod.wait().reason is TerminationReason.GUEST_SHUTDOWN

    assert "DVCR-GUEST boot=2" in console
    assert "DVCR-GUEST hostname=guest" in console
    assert not run_dir(pod.root, Confinement.of("7f4d3c1a-0000-4000-8000-000000000001")).exists()


async def use_the_console(pod: LauncherPod) -> None:
    """Two onlookers: both see what came before and what one of them types; then the guest is switched off."""
    async with (
        pod.websocket("/console") as first,
        pod.websocket("/console") as second,
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


def test_a_guest_waits_for_a_damaged_chunk_to_be_healed_and_its_reboot_ends_the_process(
    tmp_path: Path, guest_disk: Path, image_server: ImageServer
) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    system = image_server.publish("vmi/system", guest_disk)
    boot_sector = next(chunk.descriptor.digest for chunk in stored_chunks(image_server, system) if chunk.index == 0)
    spec = machine_spec(
        folder,
        disks=[{"name": "system", "kind": "disk", "path": "/disk.qcow2", "image": system.model_dump()}],
        cloud_init={"user_data": "#!/bin/sh\nreboot\n", "instance_id": "i", "hostname": "red"},
    )
    settings = {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache")} | image_server.settings
    image_server.spoil_blob(str(boot_sector))
    with LauncherPod(folder, spec, settings) as pod:
        paused = pod.wait_for_state(MachineState.PAUSED)
        assert str(boot_sector) in paused.message
        assert "block device system" in paused.message
        assert paused.disks[0].streamed_percent < 100

        image_server.spoil_blob(str(boot_sector))
        pod.wait_for_console("DVCR-GUEST hostname=red")
        termination = pod.wait()

    assert termination.reason is TerminationReason.GUEST_RESET
    assert pod.process.returncode == 0


def stored_chunks(images: ImageServer, reference: ImageReference) -> Sequence[Chunk]:
    repository = images.registry.client().repository(reference.repository)
    return fetch(repository, Digest.parse(reference.digest)).image.chunks
