"""Two launchers and one machine: it moves from QEMU to QEMU, and whatever goes wrong, it runs in exactly one."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from controller.certificates import KeyPair
from controller.launcher import qcow2
from controller.launcher.migration import RECEIVE_TIMEOUT_S
from controller.launcher.spec import (
    SPEC_PATH,
    STATUS_PORT,
    DiskSpec,
    DiskWishes,
    MachineSpec,
    MachineState,
    MigrationOrder,
    MigrationState,
    MigrationStatus,
    TerminationReason,
    machine_identity,
)
from tests.support.image_server import ImageServer, image_server
from tests.support.machine import AUTHORITY, LauncherPod, guest_disk, machine_spec

__all__ = ["guest_disk", "image_server"]

# Two guests under emulation, one after the other.
pytestmark = pytest.mark.timeout(600)

MIB = 2**20
PATIENCE_S = 180
COUNTER = """#!/bin/sh
n=0
while true; do
    n=$((n+1))
    echo "DVCR-GUEST count=$n up=$(cut -d' ' -f1 /proc/uptime)"
    echo $n > /data/count
    usleep 50000
done
"""
EMPTY = {"name": "system", "kind": "disk", "path": "/vol/disk.qcow2", "size_bytes": 16 * MIB}


class Move:
    """A machine in one launcher, and another launcher that waits for it; both see the same volume."""

    def __init__(self, folder: Path, spec: MachineSpec, settings: dict[str, str]) -> None:
        volume = folder / "vol"
        volume.mkdir(parents=True, exist_ok=True)
        self.pods = []
        for name in ("source", "target"):
            pod_folder = folder / name
            (pod_folder / "root").mkdir(parents=True)
            (pod_folder / "root/vol").symlink_to(volume)
            incoming = name == "target"
            own = spec.model_copy(update={"name": f"{spec.name}-{name}", "incoming": incoming})
            self.pods.append(LauncherPod(pod_folder, own, settings))
        self.source, self.target = self.pods
        self.disk = volume / "disk.qcow2"

    def order(self, id: str = "op", **changes: float) -> None:  # noqa: A002
        order = MigrationOrder(id=id, address=self.target.address).model_copy(update=changes)
        self.source.request("PUT", "/migration", order.model_dump_json())

    @property
    def status(self) -> MigrationStatus:
        status = self.source.status().migration
        assert status is not None
        return status

    def wait_for(self, state: MigrationState, timeout_s: float = PATIENCE_S) -> MigrationStatus:
        self.source.wait_until(lambda: self.status.state is state, timeout_s, f"migration {state}")
        return self.status


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    return {
        "DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache"),
        "DVCR__LAUNCHER__ACCELERATOR": "tcg",
        "DVCR__LAUNCHER__NETWORK": "user",
    }


@contextmanager
def moving(folder: Path, spec: MachineSpec, settings: dict[str, str]) -> Iterator[Move]:
    """Both launchers, ready for the order."""
    move = Move(folder, spec, settings)
    with move.source as source:
        source.wait_for_state(MachineState.RUNNING, PATIENCE_S)
        with move.target as target:
            target.wait_for_state(MachineState.INCOMING, PATIENCE_S)
            yield move


def counts(console: str) -> list[int]:
    return [int(n) for n in re.findall(r"DVCR-GUEST count=(\d+) up=[0-9.]+\r?\n", console)]


def test_a_guest_counts_on_without_a_gap_while_its_disk_is_still_copied(
    tmp_path: Path, guest_disk: Path, image_server: ImageServer, settings: dict[str, str]
) -> None:
    image = image_server.publish("vmi/system", guest_disk)
    disk = {"name": "system", "kind": "disk", "path": "/vol/disk.qcow2", "image": image.model_dump()}
    cloud_init = {"user_data": COUNTER, "instance_id": "i", "hostname": "red"}
    spec = machine_spec(tmp_path / "m", disks=[disk], cloud_init=cloud_init)
    with moving(tmp_path, spec, settings | image_server.settings) as move:
        move.source.wait_for_console("count=5 ", PATIENCE_S)
        image_server.blob_delay_s = 1.0
        move.order()
        done = move.wait_for(MigrationState.DONE)
        print(done)
        last = counts(move.source.console())[-1]
        move.target.wait_for_console(f"count={last + 20} ", PATIENCE_S)
        assert move.target.status().state is MachineState.RUNNING
        kept = counts(move.target.request("GET", "/log").decode())
        assert (kept[0], kept == sorted(set(kept)), kept[-1] >= last + 20) == (1, True, True), "one log of both pods"
        assert move.source.terminate().reason is TerminationReason.MOVED
        image_server.blob_delay_s = 0
        move.target.wait_until(
            lambda: move.target.status().disks[0].streamed_percent == 100, PATIENCE_S, "complete copy"
        )
        assert move.target.terminate().reason is TerminationReason.STOPPED

    seen = counts(move.source.console() + move.target.console())
    assert seen == list(range(1, len(seen) + 1))
    assert qcow2.read_header(move.disk).backing is None


SLOW_BYTES_PER_S = 2 * MIB


@pytest.fixture
def idle(tmp_path: Path) -> MachineSpec:
    """A machine without a guest system, whose firmware looks for one."""
    return machine_spec(tmp_path / "m", disks=[EMPTY], grace_period_s=0)


def test_what_breaks_the_move_off_leaves_the_machine_running_and_it_can_move_later(
    tmp_path: Path, idle: MachineSpec, settings: dict[str, str]
) -> None:
    with moving(tmp_path, idle, settings) as move:
        # Called off.
        move.order("called off", bandwidth_bytes=SLOW_BYTES_PER_S)
        move.wait_for(MigrationState.ACTIVE)
        move.source.wait_until(lambda: move.status.remaining_bytes > 0, PATIENCE_S, "progress")
        move.source.request("DELETE", "/migration")
        assert "cancelled" in move.wait_for(MigrationState.FAILED).message
        move.source.wait_for_state(MachineState.RUNNING, PATIENCE_S)

        # The other launcher is killed, and QEMU with it.
        move.target.process.kill()
        move.target.process.wait()
        move.order("nobody there")
        assert move.wait_for(MigrationState.FAILED).message
        move.source.wait_for_state(MachineState.RUNNING, PATIENCE_S)

        move.target.start()
        move.target.wait_for_state(MachineState.INCOMING, PATIENCE_S)
        move.order("killed", bandwidth_bytes=SLOW_BYTES_PER_S)
        move.source.wait_until(lambda: move.status.remaining_bytes > 0, PATIENCE_S, "progress")
        move.target.process.kill()
        move.target.process.wait()
        assert move.wait_for(MigrationState.FAILED).message
        move.source.wait_for_state(MachineState.RUNNING, PATIENCE_S)

        move.target.start()
        move.target.wait_for_state(MachineState.INCOMING, PATIENCE_S)
        move.order("at last")
        move.wait_for(MigrationState.DONE)
        assert move.target.status().state is MachineState.RUNNING
        assert move.source.status().state is MachineState.MOVED
        assert move.source.health() == 503
        assert move.target.health() == 200


def test_a_move_without_progress_ends(tmp_path: Path, idle: MachineSpec, settings: dict[str, str]) -> None:
    with moving(tmp_path, idle, settings) as move:
        (qemu,) = qemu_of(move.target)
        move.order("stuck", bandwidth_bytes=SLOW_BYTES_PER_S, progress_timeout_s=2)
        move.source.wait_until(lambda: move.status.remaining_bytes > 0, PATIENCE_S, "progress")
        os.kill(qemu, signal.SIGSTOP)
        assert "no progress for 2 s" in move.wait_for(MigrationState.FAILED).message
        os.kill(qemu, signal.SIGCONT)
        move.source.wait_for_state(MachineState.RUNNING, PATIENCE_S)


def test_a_target_that_falls_silent_at_the_last_moment_is_waited_for(
    tmp_path: Path, idle: MachineSpec, settings: dict[str, str]
) -> None:
    with moving(tmp_path, idle, settings) as move:
        # Its QEMU takes the machine in, but its launcher cannot say anything.
        move.target.process.send_signal(signal.SIGSTOP)
        move.order()
        move.wait_for(MigrationState.SENT)
        assert move.source.status().state is MachineState.MOVED

        move.target.process.send_signal(signal.SIGCONT)
        assert move.wait_for(MigrationState.DONE).told
        assert move.target.status().state is MachineState.RUNNING


def test_a_target_that_never_ran_the_machine_says_so_and_the_source_goes_on(
    tmp_path: Path, idle: MachineSpec, settings: dict[str, str]
) -> None:
    with moving(tmp_path, idle, settings) as move:
        move.target.process.send_signal(signal.SIGSTOP)
        move.order()
        move.wait_for(MigrationState.SENT)
        move.target.process.kill()
        move.target.process.wait()
        assert not move.status.told

        move.source.request("POST", "/migration/rollback")

        assert move.status.state is MigrationState.FAILED
        move.source.wait_for_state(MachineState.RUNNING, PATIENCE_S)

        move.target.start()
        move.target.wait_for_state(MachineState.INCOMING, PATIENCE_S)
        assert move.target.terminate().reason is TerminationReason.NOT_ARRIVED


def test_a_machine_that_runs_elsewhere_cannot_be_run_again_over_its_disks(
    tmp_path: Path, idle: MachineSpec, settings: dict[str, str]
) -> None:
    with moving(tmp_path, idle, settings) as move:
        move.target.process.send_signal(signal.SIGSTOP)
        move.order()
        move.wait_for(MigrationState.SENT)
        move.source.request("POST", "/migration/rollback")
        move.source.wait_for_state(MachineState.RUNNING, PATIENCE_S)

        move.target.process.send_signal(signal.SIGCONT)
        with pytest.raises(AssertionError, match="lock"):
            move.target.request("POST", "/migration/resume")
        assert move.target.wait().reason is TerminationReason.NOT_ARRIVED
        assert move.source.status().state is MachineState.RUNNING


def test_only_the_same_machine_or_the_controller_may_say_that_it_runs(
    tmp_path: Path, idle: MachineSpec, settings: dict[str, str]
) -> None:
    with moving(tmp_path, idle, settings) as move:
        assert resume_as("another-machine", move.target) == 403
        # The very machine may, but there is nothing to run yet.
        assert resume_as(idle.uid, move.target) == 503
        assert move.target.status().state is MachineState.INCOMING


def resume_as(uid: str, pod: LauncherPod) -> int:
    """The answer to who shows the certificate of that machine."""
    files = AUTHORITY.issue(uid)
    tls = KeyPair(files["tls.crt"], files["tls.key"]).client_context(files["ca.crt"])
    name = machine_identity(machine_spec(Path("m")).uid)
    pool = urllib3.HTTPSConnectionPool(
        pod.address, STATUS_PORT, ssl_context=tls, server_hostname=name, timeout=RECEIVE_TIMEOUT_S + 20
    )
    with pool:
        return pool.request("POST", "/migration/resume", retries=False).status


def qemu_of(pod: LauncherPod) -> list[int]:
    """The QEMU whose parent is the launcher."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text().rsplit(")", 1)
                name = (folder / "comm").read_text()
            except OSError:
                continue
            if int(stat[1].split()[1]) == pod.process.pid and name.startswith("qemu-system"):
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"bootloader": "EFI", "cores": 2},
        {"bootloader": "EFIWithSecureBoot", "cloud_init": {"user_data": "", "instance_id": "i", "hostname": "h"}},
        {"paravirtualization": False},
        {"os_type": "Windows"},
    ],
)
def test_every_kind_of_machine_moves_with_its_firmwares_variables(
    tmp_path: Path, settings: dict[str, str], changes: dict[str, object]
) -> None:
    spec = machine_spec(tmp_path / "m", disks=[EMPTY], grace_period_s=0, **changes)
    with moving(tmp_path, spec, settings) as move:
        if "bootloader" in changes:
            move.source.wait_for_console("BdsDxe", PATIENCE_S)
            (variables,) = (move.source.root / "vol").glob("*.fd")
            before = variables.read_bytes()
        move.order()
        move.wait_for(MigrationState.DONE)

        assert move.target.status().state is MachineState.RUNNING
        if "bootloader" in changes:
            # The firmware goes on writing, but flash only loses bits: a fresh one would have more.
            after = variables.read_bytes()
            assert int.from_bytes(after) & ~int.from_bytes(before) == 0


def test_what_was_plugged_goes_along_on_its_port_also_what_the_guest_is_still_to_let_go(
    tmp_path: Path, idle: MachineSpec, settings: dict[str, str]
) -> None:
    plugged = [
        DiskSpec(name=name, kind="disk", path=f"/vol/{name}.qcow2", size_bytes=16 * MIB, hotplug=True)
        for name in ("first", "second")
    ]
    move = Move(tmp_path, idle, settings)

    def ports(pod: LauncherPod) -> dict[str, int | None]:
        return {disk.name: disk.port for disk in pod.status().disks if disk.attached}

    with move.source as source:
        source.wait_for_state(MachineState.RUNNING, PATIENCE_S)
        source.request("PUT", "/disks", DiskWishes(plugged=tuple(plugged)).model_dump_json())
        expected = {"system": None, "first": 0, "second": 1}
        source.wait_until(lambda: ports(source) == expected, PATIENCE_S, "both disks plugged")
        # Wanted no more, but nobody in the machine hears that it is to let the disk go.
        source.request("PUT", "/disks", DiskWishes(plugged=(plugged[1],)).model_dump_json())
        source.wait_until(
            lambda: any("let the disk go" in d.message for d in source.status().disks), PATIENCE_S, "word"
        )
        now = MachineSpec.model_validate_json(source.request("GET", "/machine"))
        spec = now.model_copy(update={"name": f"{idle.name}-target", "incoming": True})
        (move.target.root / SPEC_PATH.lstrip("/")).write_text(spec.model_dump_json())
        with move.target as target:
            target.wait_for_state(MachineState.INCOMING, PATIENCE_S)
            move.order()
            move.wait_for(MigrationState.DONE)
            assert ports(target) == expected
            target.wait_for_state(MachineState.RUNNING, PATIENCE_S)
