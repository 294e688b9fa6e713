"""The launcher as a process, over real QEMU, mostly without a guest operating system: what the pod sees of it."""

import os
import random
import select
import signal
import subprocess
from pathlib import Path

import pytest

from controller.launcher import qcow2
from controller.launcher.accel import probe
from controller.launcher.confinement import Confinement
from controller.launcher.spec import SPEC_PATH, ImageReference, MachineState, TerminationReason
from tests.support.image_server import ImageServer, image_server
from tests.support.machine import LauncherPod, machine_spec
from tests.support.memory_registry import Answer, Fault

__all__ = ["image_server"]

MIB = 2**20
EMPTY = {"name": "system", "kind": "disk", "path": "/vol/disk.qcow2", "size_bytes": 16 * MIB}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / f"m{random.getrandbits(32):08x}"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    return {"DVCR__LAUNCHER__CACHE_DIR": str(tmp_path / "cache"), "DVCR__LAUNCHER__ACCELERATOR": "tcg"}


@pytest.fixture
def raw_disk(tmp_path: Path) -> Path:
    """40 MiB with a hole in the middle."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.write(random.randbytes(14 * MIB))
        file.truncate(34 * MIB)
        file.seek(34 * MIB)
        file.write(random.randbytes(6 * MIB))
    return path


def from_image(image: ImageReference, **changes: object) -> dict[str, object]:
    return {"name": "system", "kind": "disk", "path": "/vol/disk.qcow2", "image": image.model_dump()} | changes


def same_content(raw: Path, disk: Path) -> bool:
    command = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(raw), str(disk)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"bootloader": "EFI"},
        {"bootloader": "EFIWithSecureBoot", "cores": 2},
        {"paravirtualization": False, "cloud_init": {"user_data": "", "instance_id": "i", "hostname": "h"}},
        {"os_type": "Windows"},
    ],
)
def test_qemu_takes_the_command_line_and_a_guest_that_never_answers_is_killed(
    folder: Path, settings: dict[str, str], changes: dict[str, object]
) -> None:
    with LauncherPod(folder, machine_spec(folder, disks=[EMPTY], grace_period_s=0, **changes), settings) as pod:
        status = pod.wait_for_state(MachineState.RUNNING)
        assert len(list(pod.qemu_pids())) == 1
        termination = pod.terminate()

    assert (status.accelerator, status.disks[0].streamed_percent) == ("tcg", 100)
    assert termination.reason is TerminationReason.KILLED
    assert pod.process.returncode == 0
    assert list(pod.qemu_pids()) == []


def test_the_grace_period_is_the_one_that_the_specification_says_when_the_launcher_is_asked_to_stop(
    folder: Path, settings: dict[str, str]
) -> None:
    spec = machine_spec(folder, disks=[EMPTY], grace_period_s=3600)
    with LauncherPod(folder, spec, settings) as pod:
        pod.wait_for_state(MachineState.RUNNING)
        changed = spec.model_copy(update={"grace_period_s": 0})
        (pod.root / SPEC_PATH.lstrip("/")).write_text(changed.model_dump_json())
        termination = pod.terminate()

    assert termination.reason is TerminationReason.KILLED


def test_a_killed_launcher_takes_qemu_with_it_and_its_successor_goes_on_with_the_copy(
    folder: Path, settings: dict[str, str], image_server: ImageServer, raw_disk: Path
) -> None:
    spec = machine_spec(folder, disks=[from_image(image_server.publish("vmi/a", raw_disk))], grace_period_s=0)
    disk = folder / "root/vol/disk.qcow2"
    image_server.blob_delay_s = 0.3
    with LauncherPod(folder, spec, settings | image_server.settings) as pod:
        pod.wait_until(lambda: 0 < pod.wait_for_state(MachineState.RUNNING).disks[0].streamed_percent < 100, 30, "copy")
        pod.process.kill()
        pod.process.wait()
        wait_for_qemus_end(pod)
        assert qcow2.read_header(disk).backing is not None
        image_server.blob_delay_s = 0

        pod.start()
        pod.wait_for_state(MachineState.RUNNING)
        pod.wait_until(lambda: pod.status().disks[0].streamed_percent == 100, 30, "complete copy")
        pod.terminate()

    assert qcow2.read_header(disk).backing is None
    assert same_content(raw_disk, disk)


def wait_for_qemus_end(pod: LauncherPod) -> None:
    for pid in pod.qemu_pids():
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([fd], [], [], 10)[0], "QEMU outlives its launcher"
        finally:
            os.close(fd)


def test_a_corrupt_chunk_never_reaches_the_guest_and_the_copy_goes_on_when_it_is_healed(
    folder: Path, settings: dict[str, str], image_server: ImageServer, raw_disk: Path
) -> None:
    reference = image_server.publish("vmi/a", raw_disk)
    chunk = max(image_server.registry.blobs["vmi/a"], key=lambda d: len(image_server.registry.blobs["vmi/a"][d]))
    image_server.spoil_blob(chunk)
    spec = machine_spec(folder, disks=[from_image(reference)], grace_period_s=0)
    with LauncherPod(folder, spec, settings | image_server.settings) as pod:
        pod.wait_for_state(MachineState.RUNNING, 30)
        pod.wait_until(lambda: "block device system" in pod.status().message, 30, "word of the corrupt chunk")
        assert chunk in pod.status().message
        assert qcow2.read_header(folder / "root/vol/disk.qcow2").backing is not None

        image_server.spoil_blob(chunk)
        pod.wait_until(lambda: pod.status().disks[0].streamed_percent == 100, 60, "complete copy")
        pod.wait_until(lambda: pod.status().message == "", 30, "end of the trouble")
        pod.terminate()

    assert same_content(raw_disk, folder / "root/vol/disk.qcow2")


def test_a_guest_waits_while_the_registry_is_away_and_goes_on_by_itself(
    folder: Path, settings: dict[str, str], image_server: ImageServer, raw_disk: Path
) -> None:
    spec = machine_spec(folder, disks=[from_image(image_server.publish("vmi/a", raw_disk))], grace_period_s=0)
    chunks = [digest for digest, blob in image_server.registry.blobs["vmi/a"].items() if len(blob) >= MIB]
    image_server.registry.faults += [Fault("GET", chunk, 10**6, Answer(503)) for chunk in chunks]
    with LauncherPod(folder, spec, settings | image_server.settings) as pod:
        # The firmware reads the boot sector.
        pod.wait_for_state(MachineState.PAUSED, 90)
        pod.wait_until(lambda: "503" in pod.status().message, 30, "word of the registry")
        assert pod.status().disks[0].streamed_percent == 0

        image_server.registry.faults.clear()
        pod.wait_for_state(MachineState.RUNNING, 60)
        pod.wait_until(lambda: pod.status().disks[0].streamed_percent == 100, 60, "complete copy")
        pod.wait_until(lambda: pod.status().message == "", 30, "end of the trouble")
        pod.terminate()

    assert same_content(raw_disk, folder / "root/vol/disk.qcow2")


def test_an_image_that_does_not_exist_fails_at_once_and_leaves_no_disk(
    folder: Path, settings: dict[str, str], image_server: ImageServer
) -> None:
    missing = ImageReference(repository="vmi/none", digest="sha256:" + "0" * 64)
    spec = machine_spec(folder, disks=[from_image(missing)])
    with LauncherPod(folder, spec, settings | image_server.settings) as pod:
        termination = pod.wait()

    assert termination.reason is TerminationReason.FAILED
    assert "vmi/none" in termination.message
    assert pod.process.returncode == 1
    assert not (folder / "root/vol").exists()


def test_a_launcher_without_a_registry_waits_says_so_and_can_be_stopped(
    folder: Path, settings: dict[str, str], image_server: ImageServer, raw_disk: Path
) -> None:
    spec = machine_spec(folder, disks=[from_image(image_server.publish("vmi/a", raw_disk))])
    nowhere = {"DVCR__CLIENT__URL": "http://127.0.0.1:1"}
    with LauncherPod(folder, spec, settings | nowhere) as pod:
        pod.wait_for_state(MachineState.STARTING)
        pod.wait_until(lambda: "127.0.0.1:1" in pod.status().message, 60, "word of the registry")
        assert pod.health() == 503
        termination = pod.terminate()

    assert termination.reason is TerminationReason.STOPPED


@pytest.mark.parametrize("bootloader", ["EFI", "EFIWithSecureBoot"])
def test_uefi_finds_the_variables_of_its_last_run(folder: Path, settings: dict[str, str], bootloader: str) -> None:
    spec = machine_spec(folder, disks=[EMPTY], bootloader=bootloader, grace_period_s=0)
    runs = []
    for _ in range(2):
        with LauncherPod(folder, spec, settings) as pod:
            pod.wait_for_console("BdsDxe")
            pod.terminate()
        (file,) = (folder / "root/vol").glob("*.fd")
        runs.append(file.read_bytes())

    # It writes at each start, and flash only loses bits: fresh variables would be those of the first run again.
    first, second = (int.from_bytes(content) for content in runs)
    assert second != first
    assert second & ~first == 0


def test_a_qemu_that_crashes_is_a_failure_that_names_the_signal(folder: Path, settings: dict[str, str]) -> None:
    with LauncherPod(folder, machine_spec(folder, disks=[EMPTY]), settings) as pod:
        pod.wait_for_state(MachineState.RUNNING)
        assert pod.health() == 200
        (pid,) = pod.qemu_pids()
        os.kill(pid, signal.SIGKILL)
        termination = pod.wait()

    assert termination.reason is TerminationReason.FAILED
    assert "signal 9" in termination.message


def test_what_qemu_refuses_is_the_reason_of_the_failure(folder: Path, settings: dict[str, str]) -> None:
    spec = machine_spec(folder, disks=[EMPTY], memory_bytes=2**50)
    with LauncherPod(folder, spec, settings) as pod:
        termination = pod.wait()

    assert termination.reason is TerminationReason.FAILED
    assert "memory" in termination.message


def test_a_wrong_specification_is_named(folder: Path, settings: dict[str, str]) -> None:
    pod = LauncherPod(folder, machine_spec(folder), settings)
    (pod.root / "etc/dvcr/machine.json").write_text('{"name": "x", "colour": "red"}')
    with pod:
        termination = pod.wait()

    assert termination.reason is TerminationReason.FAILED
    assert "colour" in termination.message


def test_a_guest_runs_on_software_emulation() -> None:
    assert probe("tcg", Confinement.of("probe")) is None
