"""Every kind of machine that a spec can ask for: what QEMU itself makes of the command line, stopped before it runs."""

import asyncio
import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pytest

from controller.launcher import qcow2
from controller.launcher.argv import VARIABLES, Drive, Runtime, qemu_arguments
from controller.launcher.capability import find_capability
from controller.launcher.confinement import Confinement
from controller.launcher.firmware import find_firmware
from controller.launcher.iso import write_iso
from controller.launcher.qmp import Monitor, MonitorError
from controller.launcher.spec import MachineSpec
from converter.nbd.server import NbdServer
from tests.support.images import MemoryExport
from tests.support.machine import machine_spec

MIB = 2**20
BOOTLOADERS: tuple[Literal["BIOS", "EFI", "EFIWithSecureBoot"], ...] = ("BIOS", "EFI", "EFIWithSecureBoot")
PROCESSORS = (
    {"type": "Host"},
    {"type": "Model", "model": "Nehalem"},
    {"type": "Features", "features": ["aes", "ssse3", "sse4.2"]},
)


class Bench:
    """Disks, images and sockets for QEMU processes that are asked and ended."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self.nbd_socket = folder / "nbd.sock"
        stack.enter_context(NbdServer(self.nbd_socket, {"tools": MemoryExport(bytes(MIB))}))
        for name in ("seed", "sysprep"):
            (folder / f"{name}.iso").write_bytes(write_iso(name, {"a": b"b"}))

    def disk(self, number: int) -> Drive:
        path = self._folder / f"disk{number}.qcow2"
        if not path.exists():
            qcow2.create(path, 16 * MIB, None)
        return Drive(f"disk{number}", path, None)

    def ask(self, spec: MachineSpec, drives: list[Drive], *commands: str) -> list[Any]:
        """What a QEMU with that command line answers; the test fails with QEMU's words if it does not start."""
        ours, theirs = socket.socketpair()
        serial, qemu_serial = socket.socketpair()
        fds = {drive.node: os.open(drive.path, os.O_RDWR) for drive in drives if drive.path}
        firmware = None
        if spec.bootloader != "BIOS":
            firmware = find_firmware(spec.bootloader, self._folder)
            fds[VARIABLES] = os.open(firmware.variables, os.O_RDWR)
        runtime = Runtime(
            accelerator="tcg",
            qmp_fd=theirs.fileno(),
            serial_fd=qemu_serial.fileno(),
            nbd_socket=self.nbd_socket,
            vnc_socket=self._folder / "vnc.sock",
            agent_socket=self._folder / "agent.sock",
            drives=drives,
            open_files=fds,
            seed=self._folder / "seed.iso" if spec.cloud_init else None,
            sysprep=self._folder / "sysprep.iso" if spec.sysprep else None,
            firmware=firmware,
        )
        with serial:
            process = subprocess.Popen(
                qemu_arguments(spec, runtime),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(), qemu_serial.fileno(), *fds.values()),
            )
            for sock in (theirs, qemu_serial):
                sock.close()
            for fd in fds.values():
                os.close(fd)
            try:
                return asyncio.run(_converse(ours, commands))
            except MonitorError as exc:
                process.kill()
                words = process.communicate()[1]
                raise AssertionError(f"{words.decode()}\n{exc}") from exc
            finally:
                process.kill()
                process.wait()


async def _converse(sock: socket.socket, commands: tuple[str, ...]) -> list[Any]:
    monitor = await Monitor.connect(sock)
    try:
        return [await monitor.execute(command) for command in commands]
    finally:
        await monitor.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


@pytest.mark.parametrize(
    ("bootloader", "os_type", "paravirtualization"),
    list(itertools.product(BOOTLOADERS, ("Generic", "Windows"), (True, False))),
)
def test_qemu_takes_every_kind_of_machine(
    tmp_path: Path, bench: Bench, bootloader: str, os_type: str, paravirtualization: bool
) -> None:
    changes: dict[str, Any] = {"bootloader": bootloader, "os_type": os_type, "paravirtualization": paravirtualization}
    if os_type == "Windows":
        changes["sysprep"] = {"files": {"unattend.xml": "PHg+"}}
    else:
        changes["cloud_init"] = {"user_data": "", "instance_id": "i", "hostname": "h"}
    spec = machine_spec(tmp_path, cores=2, **changes)
    # An installer, a data image, and disks up to the sixteenth device.
    drives = [Drive("installer", None, "tools", cdrom=True), bench.disk(0), Drive("tools", None, "tools")]
    drives += [bench.disk(number) for number in range(1, 14)]

    status, blocks = bench.ask(spec, drives, "query-status", "query-block")

    assert status["status"] == "prelaunch"
    seen = {block["qdev"].rpartition("/")[2]: block for block in blocks if block.get("qdev")}
    names = [f"device-{drive.node}" for drive in drives] + ["device-sysprep" if spec.sysprep else "device-seed"]
    attached = {name for name in names if any(name in path for path in (*seen, *(b["qdev"] for b in blocks)))}
    assert attached == set(names)
    assert len(drives) == 16
    read_only = {b["inserted"]["node-name"] for b in blocks if b.get("inserted", {}).get("ro")}
    assert {"installer", "tools"} <= read_only
    assert not read_only & {drive.node for drive in drives if drive.path}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_qemu_takes_every_kind_of_processor(tmp_path: Path, bench: Bench, processor: dict[str, Any]) -> None:
    spec = machine_spec(tmp_path, cores=3, processor=processor)

    (cpus,) = bench.ask(spec, [bench.disk(0)], "query-cpus-fast")

    assert len(cpus) == 3


def test_a_node_can_tell_what_processors_its_qemu_gives() -> None:
    capability = find_capability("tcg", Confinement.of("test"), "asked for")

    nehalem = capability.features_of("Nehalem")
    assert nehalem is not None
    assert {"sse4.2", "popcnt", "cx16"} <= nehalem <= capability.available_features()
    assert "avx512f" not in capability.available_features()
    assert "avx512f" in (capability.features_of("Skylake-Server") or ())
    assert len(capability.model_dump_json()) < 64 * 1024
