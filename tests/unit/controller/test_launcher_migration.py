"""Both ends of a move where QEMU, the disks or the other launcher do what they should not."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.launcher.confinement import Confinement
from controller.launcher.machine import Machine
from controller.launcher.migration import Arrival, QemuCredentials
from controller.launcher.qmp import MonitorError
from controller.launcher.spec import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, MachineState, TerminationReason
from dvcr.errors import ResourceError
from tests.support.coroutines import in_loop
from tests.support.fake_qemu import FakeQemu

SILENCE = MonitorError("QEMU did not answer")
LOCKED = MonitorError("QEMU refused cont: Failed to get a lock")


def credentials(folder: Path) -> QemuCredentials:
    for name in (AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE):
        (folder / name).write_text(name)
    qemu_folder = folder / "qemu"
    qemu_folder.mkdir()
    return QemuCredentials(folder, qemu_folder, "uid.machine.dvcr", Confinement())


def unheard(effect: Callable[[], None]) -> Callable[[], None]:
    """QEMU does it, but its answer does not come in time."""

    def answer() -> None:
        effect()
        raise SILENCE

    return answer


async def received(qemu: FakeQemu, folder: Path) -> tuple[Machine, Arrival]:
    """A machine that is here whole, and was not told to run."""
    machine = qemu.machine(folder, incoming=True)
    arrival = Arrival(machine, credentials(folder), run_timeout_s=0)
    await arrival.begin("127.0.0.1")
    await asyncio.sleep(0)
    qemu.migration = {"status": "completed"}
    qemu.tell("MIGRATION")
    return machine, arrival


@in_loop
async def test_a_machine_that_runs_though_qemu_did_not_answer_in_time_has_arrived(tmp_path: Path) -> None:
    qemu = FakeQemu()
    machine, arrival = await received(qemu, tmp_path)
    qemu.answers["cont"] = [unheard(qemu.run)]

    await arrival.resume()

    assert machine.state is MachineState.RUNNING
    await arrival.close()
    await machine.close()


@in_loop
async def test_a_machine_that_ran_for_a_moment_has_arrived(tmp_path: Path) -> None:
    """An I/O error may stop it at once."""
    qemu = FakeQemu()
    machine, arrival = await received(qemu, tmp_path)

    def run_and_stop() -> None:
        qemu.run()
        qemu.guest_runs = False

    qemu.answers["cont"] = [unheard(run_and_stop)]

    await arrival.resume()

    assert machine.state is MachineState.RUNNING
    await arrival.close()
    await machine.close()


@in_loop
async def test_where_nobody_knows_whether_the_machine_ran_it_is_not_said_that_it_never_will(tmp_path: Path) -> None:
    qemu = FakeQemu()
    machine, arrival = await received(qemu, tmp_path)
    qemu.answers = {"cont": [SILENCE], "query-status": [SILENCE]}

    for _ in range(2):
        with pytest.raises(ResourceError) as raised:
            await arrival.resume()
        assert raised.value.retryable

    assert qemu.commands.count("cont") == 1
    await arrival.close()
    assert (await machine.close()).reason is TerminationReason.FAILED


@in_loop
async def test_a_machine_that_cannot_run_never_will_and_says_so_each_time(tmp_path: Path) -> None:
    qemu = FakeQemu()
    machine, arrival = await received(qemu, tmp_path)
    qemu.answers = {"cont": [LOCKED]}

    for _ in range(2):
        with pytest.raises(ResourceError) as raised:
            await arrival.resume()
        assert not raised.value.retryable

    await arrival.close()
    assert (await machine.close()).reason is TerminationReason.NOT_ARRIVED


@in_loop
async def test_a_machine_that_was_asked_to_stop_since_it_arrived_has_arrived(tmp_path: Path) -> None:
    qemu = FakeQemu()
    machine, arrival = await received(qemu, tmp_path)
    await arrival.resume()
    stopping = asyncio.create_task(machine.power_off(60))
    await asyncio.sleep(0)

    await arrival.resume()

    assert machine.state is MachineState.STOPPING
    qemu.process.end()
    await stopping
    await arrival.close()
    assert (await machine.close()).reason is TerminationReason.STOPPED
