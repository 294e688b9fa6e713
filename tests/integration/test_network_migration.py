"""A machine that moves, on passt: its ports go on to answer at its address, and it reaches out from where it is."""

import os
import shutil
from pathlib import Path

import pytest

from controller.launcher.spec import MachineState, MigrationState, NetworkStatus, TerminationReason
from tests.integration.test_launcher_migration import PATIENCE_S, moving
from tests.integration.test_launcher_network import serving_host
from tests.support.guest_page import guest_page
from tests.support.machine import guest_disk, machine_spec

__all__ = ["guest_disk"]

pytestmark = pytest.mark.timeout(600)

ADDRESS = f"127.97.{os.getpid() % 250}.1"
USER_DATA = """#!/bin/sh
echo hello from the guest >/data/index.html
httpd -p 8000 -h /data
while true; do
    timeout 10 wget -q -O - http://{outside}:{port}/ >/dev/null 2>&1 && echo "DVCR-GUEST reached=$((n += 1))"
    sleep 1
done
"""


def test_a_guests_ports_and_its_way_out_move_with_it(tmp_path: Path, guest_disk: Path) -> None:
    settings = {
        "DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache"),
        "DVCR__LAUNCHER__ACCELERATOR": "tcg",
        "DVCR__LAUNCHER__NETWORK": "passt",
    }
    disk = tmp_path / "vol/disk.qcow2"
    disk.parent.mkdir()
    shutil.copyfile(guest_disk, disk)
    disks = [{"name": "system", "kind": "disk", "path": "/vol/disk.qcow2", "size_bytes": 256 * 2**20}]
    with serving_host() as host:
        script = USER_DATA.format(outside=host.outside, port=host.port)
        cloud_init = {"user_data": script, "instance_id": "i", "hostname": "web"}
        spec = machine_spec(tmp_path / "m", disks=disks, cloud_init=cloud_init, address=ADDRESS)
        with moving(tmp_path, spec, settings) as move:
            move.source.wait_for_console("reached=1", PATIENCE_S)
            assert guest_page(ADDRESS, 8000) == "hello from the guest\n"
            waiting = move.target.status().network
            assert waiting is not None
            assert ADDRESS in waiting.trouble

            move.order()
            move.wait_for(MigrationState.DONE)
            assert move.source.terminate().reason is TerminationReason.MOVED
            move.target.wait_until(
                lambda: guest_page(ADDRESS, 8000) == "hello from the guest\n", PATIENCE_S, "the page after the move"
            )
            move.target.wait_for_console("reached=", PATIENCE_S)
            status = move.target.status()
            assert (status.state, status.network) == (MachineState.RUNNING, NetworkStatus(kind="passt"))
