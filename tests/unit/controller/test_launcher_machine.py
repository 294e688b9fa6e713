"""What a machine's end is called, whatever became of a move meanwhile."""

import asyncio
from pathlib import Path

from controller.launcher.spec import MachineState, TerminationReason
from tests.support.coroutines import in_loop
from tests.support.fake_qemu import FakeQemu


@in_loop
async def test_a_machine_that_is_asked_to_stop_while_it_leaves_was_asked_to_stop(tmp_path: Path) -> None:
    qemu = FakeQemu()
    machine = qemu.machine(tmp_path)
    await machine.begin()
    await machine.hold()
    stopping = asyncio.create_task(machine.power_off(60))
    await asyncio.sleep(0)
    machine.leave()

    await machine.release()

    assert machine.state is MachineState.STOPPING
    qemu.process.end()
    await stopping
    assert (await machine.close()).reason is TerminationReason.STOPPED


@in_loop
async def test_a_machine_that_left_while_it_was_asked_to_stop_has_moved(tmp_path: Path) -> None:
    qemu = FakeQemu()
    machine = qemu.machine(tmp_path)
    await machine.begin()
    await machine.hold()
    stopping = asyncio.create_task(machine.power_off(60))
    await asyncio.sleep(0)
    machine.leave()

    qemu.process.end()
    await stopping
    assert (await machine.close()).reason is TerminationReason.MOVED
