"""A guest's firmware and a guest's end: what the launcher sees of a guest that boots and dies in every way."""

from pathlib import Path
from typing import Any

import pytest

from controller.launcher.spec import MachineState, TerminationReason
from demo import guest
from tests.support.image_server import ImageServer, image_server
from tests.support.machine import LauncherPod, guest_disk, machine_spec

__all__ = ["guest_disk", "image_server"]

# Firmware and boot loader load the kernel byte by byte under emulation.
BOOT_TIMEOUT_S = 240
NEHALEM = {"type": "Model", "model": "Nehalem"}


def pod(tmp_path: Path, images: ImageServer, disk: Path, script: str, **changes: Any) -> LauncherPod:
    folder = tmp_path / "machine"
    folder.mkdir()
    image = images.publish("vmi/system", disk)
    disks = [{"name": "system", "kind": "disk", "path": "/disk.qcow2", "image": image.model_dump()}]
    cloud_init = {"user_data": f"#!/bin/sh\n{script}\n", "instance_id": "i", "hostname": "red"}
    settings = {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache"), "DVCR__LAUNCHER__ACCELERATOR": "tcg"}
    spec = machine_spec(folder, disks=disks, cloud_init=cloud_init, **changes)
    return LauncherPod(folder, spec, settings | images.settings)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("bootloader", "firmware"), [("EFI", "efi"), ("EFIWithSecureBoot", "efi-secure")])
def test_a_guest_boots_under_uefi(
    tmp_path: Path, image_server: ImageServer, guest_disk: Path, bootloader: str, firmware: str
) -> None:
    with pod(tmp_path, image_server, guest_disk, "poweroff", bootloader=bootloader, processor=NEHALEM) as machine:
        console = machine.wait_for_console("DVCR-GUEST hostname=red", BOOT_TIMEOUT_S)
        termination = machine.wait()

    assert f"DVCR-GUEST firmware={firmware}" in console.splitlines()
    assert termination.reason is TerminationReason.GUEST_SHUTDOWN


@pytest.fixture(scope="module")
def hardware_guest_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest with a kernel that also has drivers of real hardware."""
    output = tmp_path_factory.mktemp("hardware") / "guest.qcow2"
    return guest.build(output, kernel_package=guest.GENERIC_KERNEL)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("paravirtualization", "disk", "card"), [(True, "vda", "virtio_net"), (False, "sda", "e1000")])
def test_a_guest_boots_on_the_devices_it_is_given(
    tmp_path: Path,
    image_server: ImageServer,
    hardware_guest_disk: Path,
    paravirtualization: bool,
    disk: str,
    card: str,
) -> None:
    script = "echo DVCR-GUEST card=$(basename $(readlink /sys/class/net/eth0/device/driver)) >/dev/ttyS0; poweroff"
    changes = {"paravirtualization": paravirtualization}
    with pod(tmp_path, image_server, hardware_guest_disk, script, **changes) as machine:
        termination = machine.wait(BOOT_TIMEOUT_S)

    lines = machine.console().splitlines()
    assert f"DVCR-GUEST boot=1 disk=/dev/{disk}2" in lines
    assert "DVCR-GUEST hostname=red" in lines
    assert "DVCR-GUEST address=10.0.2.15" in lines
    assert f"DVCR-GUEST card={card}" in lines
    assert termination.reason is TerminationReason.GUEST_SHUTDOWN


@pytest.mark.parametrize(
    ("script", "processor", "reason", "code"),
    [
        ("poweroff", {"type": "Host"}, "GuestShutdown", 0),
        ("reboot", {"type": "Model", "model": "Nehalem"}, "GuestReset", 0),
        ("echo c >/proc/sysrq-trigger", {"type": "Features", "features": ["ssse3", "popcnt"]}, "GuestPanic", 0),
    ],
)
def test_how_a_guest_ends_is_told(
    tmp_path: Path,
    image_server: ImageServer,
    guest_disk: Path,
    script: str,
    processor: dict[str, Any],
    reason: str,
    code: int,
) -> None:
    with pod(tmp_path, image_server, guest_disk, script, processor=processor) as machine:
        machine.wait_for_state(MachineState.RUNNING, 60)
        termination = machine.wait(BOOT_TIMEOUT_S)

    messages = {"GuestPanic": "the guest's kernel panicked"}
    assert (termination.reason, termination.message) == (TerminationReason(reason), messages.get(reason, ""))
    assert "DVCR-GUEST hostname=" in termination.output
    assert machine.process.returncode == code
