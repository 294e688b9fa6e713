"""The way from the launcher to an agent in a guest, through QEMU: a small agent of a few lines that the guest runs."""

import asyncio
import shutil
from pathlib import Path

import pytest

from controller.launcher.argv import mac_address
from controller.launcher.spec import GuestInterface, GuestStatus
from tests.support.machine import LauncherPod, guest_disk, machine_spec

__all__ = ["guest_disk"]

# Guests boot under emulation, on machines that may be busy.
pytestmark = pytest.mark.timeout(600)

BOOT_S, WAIT_S = 180, 60
USER_DATA = """#!/bin/sh
cat >/run/agent <<'END'
exec 3<>$(ls /dev/vport*p1)
while true; do
    # As long as nobody is connected at the other end, reading finds the end of the file.
    read -r line <&3 || { sleep 1; continue; }
    case "$line" in
    *guest-sync-delimited*) printf '\\377{"return": %s}\\n' $(echo "$line" | sed 's/.*"id": *//; s/[^0-9].*//') ;;
    *guest-ping*) echo '{"return": {}}' ;;
    *guest-info*) echo '{"return": {"version": "small"}}' ;;
    *guest-get-host-name*) echo "{\\"return\\": {\\"host-name\\": \\"$(hostname)\\"}}" ;;
    *guest-network-get-interfaces*) echo "{\\"return\\": [{\\"name\\": \\"eth0\\",
        \\"hardware-address\\": \\"$(cat /sys/class/net/eth0/address)\\",
        \\"ip-addresses\\": [{\\"ip-address\\": \\"10.0.2.15\\"}]}]}" | tr -d '\\n'; echo ;;
    *) echo '{"error": {"class": "CommandNotFound", "desc": "not that small"}}' ;;
    esac >&3
done
END
echo "DVCR-GUEST agent can start"
"""


def type_on_console(pod: LauncherPod, line: str) -> None:
    async def send() -> None:
        async with pod.websocket("/console") as socket:
            await socket.send_bytes(line.encode() + b"\n")

    asyncio.run(send())


def test_an_agent_in_the_guest_is_heard_missed_and_heard_again(tmp_path: Path, guest_disk: Path) -> None:
    folder = tmp_path / "agent"
    disk = folder / "root/vol/disk.qcow2"
    disk.parent.mkdir(parents=True)
    shutil.copyfile(guest_disk, disk)
    disks = [{"name": "system", "kind": "disk", "path": "/vol/disk.qcow2", "size_bytes": 256 * 2**20}]
    cloud_init = {"user_data": USER_DATA, "instance_id": "i", "hostname": "talker"}
    settings = {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache")}
    spec = machine_spec(folder, disks=disks, cloud_init=cloud_init)
    with LauncherPod(folder, spec, settings) as pod:
        pod.wait_for_console("DVCR-GUEST ready", BOOT_S)
        assert pod.status().guest is None

        type_on_console(pod, "sh /run/agent &")
        pod.wait_until(lambda: pod.status().guest is not None, WAIT_S, "word of the agent")
        card = GuestInterface(name="eth0", mac_address=mac_address(spec.uid), addresses=("10.0.2.15",))
        assert pod.status().guest == GuestStatus(agent_version="small", host_name="talker", interfaces=(card,))

        type_on_console(pod, "kill %1")
        pod.wait_until(lambda: pod.status().guest is None, WAIT_S, "the silence of the agent")

        type_on_console(pod, "hostname again; sh /run/agent &")
        pod.wait_until(lambda: pod.status().guest is not None, WAIT_S, "word of the agent's successor")
        guest = pod.status().guest
        assert guest is not None
        assert guest.host_name == "again"
