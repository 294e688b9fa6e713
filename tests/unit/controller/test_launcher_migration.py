"""Both ends of a move where QEMU, the disks or the other launcher do what they should not."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.certificates import Authority
from controller.launcher.confinement import Confinement
from controller.launcher.machine import Machine
from controller.launcher.migration import Arrival, Departure, QemuCredentials, RefusedError
from controller.launcher.migration_routes import resume_at
from controller.launcher.qmp import MonitorError
from controller.launcher.spec import (
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    MachineState,
    MigrationOrder,
    MigrationState,
    MigrationStatus,
    TerminationReason,
)
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


@in_loop
async def test_a_machine_has_arrived_though_qemu_did_not_say_so_at_first(tmp_path: Path) -> None:
    qemu = FakeQemu()
    machine, arrival = await received(qemu, tmp_path)
    qemu.answers["query-migrate"] = [SILENCE]

    await asyncio.wait_for(arrival.resume(), 5)

    assert (machine.state, qemu.answers["query-migrate"]) == (MachineState.RUNNING, [])
    await arrival.close()
    await machine.close()


ORDER = MigrationOrder(id="op", address="127.0.0.2")


class OtherLauncher:
    """Where the machine goes; meets each request with the next of these errors, then runs the machine."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    async def resume(self, address: str, told: Callable[[], None]) -> None:
        told()
        if self._errors:
            raise self._errors.pop(0)


async def leaving(qemu: FakeQemu, folder: Path, other: OtherLauncher) -> tuple[Machine, Departure]:
    machine = qemu.machine(folder)
    await machine.begin()
    return machine, Departure(machine, credentials(folder), other.resume, lambda: False)


async def outcome(departure: Departure) -> MigrationStatus:
    """The status once the move has come to its end."""

    async def settled() -> MigrationStatus:
        while departure.status is None or departure.status.state not in (MigrationState.DONE, MigrationState.FAILED):
            await asyncio.sleep(0.01)
        return departure.status

    return await asyncio.wait_for(settled(), 10)


@in_loop
async def test_whatever_goes_wrong_after_the_machine_has_left_is_tried_again(tmp_path: Path) -> None:
    qemu = FakeQemu()
    errors = (ResourceError("no answer", retryable=True), OSError("key values mismatch"), RuntimeError("a bug"))
    machine, departure = await leaving(qemu, tmp_path, OtherLauncher(*errors))
    qemu.migration = {"status": "completed"}

    departure.start(ORDER)

    assert (await outcome(departure)).state is MigrationState.DONE
    assert machine.state is MachineState.MOVED
    await departure.close()
    assert (await machine.close()).reason is TerminationReason.MOVED


@pytest.mark.parametrize(
    ("order", "unreadable", "message"),
    [
        (ORDER, CERTIFICATE_FILE, "cannot give QEMU the certificate"),
        (ORDER.model_copy(update={"address": "elsewhere"}), None, "'elsewhere' is no IP address"),
    ],
)
@in_loop
async def test_what_goes_wrong_before_leaves_the_machine_running(
    tmp_path: Path, order: MigrationOrder, unreadable: str | None, message: str
) -> None:
    qemu = FakeQemu()
    machine, departure = await leaving(qemu, tmp_path, OtherLauncher())
    if unreadable:
        (tmp_path / unreadable).unlink()

    departure.start(order)

    status = await outcome(departure)
    assert (status.state, message in status.message) == (MigrationState.FAILED, True)
    assert (machine.state, machine.held) == (MachineState.RUNNING, False)
    await machine.close()


@in_loop
async def test_an_error_that_nobody_thought_of_ends_the_sending_before_the_machine_goes_on(tmp_path: Path) -> None:
    qemu = FakeQemu()
    machine, departure = await leaving(qemu, tmp_path, OtherLauncher())
    qemu.answers["query-migrate"] = [RuntimeError("a bug"), lambda: {"status": "cancelling"}]
    qemu.migration = {"status": "cancelled"}

    departure.start(ORDER)

    status = await outcome(departure)
    assert (status.state, status.message) == (MigrationState.FAILED, "internal error: RuntimeError('a bug')")
    assert qemu.commands[-5:] == [*["migrate_cancel", "query-migrate"] * 2, "query-status"]
    assert not machine.held
    await machine.close()


@in_loop
async def test_a_machine_that_was_refused_goes_on_as_soon_as_it_can(tmp_path: Path) -> None:
    qemu = FakeQemu()
    machine, departure = await leaving(qemu, tmp_path, OtherLauncher(RefusedError("locked")))
    qemu.migration, qemu.guest_runs = {"status": "completed"}, False
    qemu.answers["cont"] = [LOCKED]

    departure.start(ORDER)

    status = await outcome(departure)
    assert (status.state, status.message) == (MigrationState.FAILED, "locked")
    assert (machine.state, qemu.guest_runs) == (MachineState.RUNNING, True)
    await machine.close()


@pytest.mark.parametrize("replaced", [None, KEY_FILE])
@in_loop
async def test_a_certificate_that_cannot_be_used_now_may_be_later(tmp_path: Path, replaced: str | None) -> None:
    """The files are replaced one after the other."""
    now = datetime.now(UTC)
    authority = Authority.create("machines", now)
    old, new = (
        authority.issue("uid.machine.dvcr", (), now, timedelta(days=1), server=True, client=True) for _ in range(2)
    )
    (tmp_path / AUTHORITY_FILE).write_bytes(authority.pair.certificate)
    (tmp_path / CERTIFICATE_FILE).write_bytes(old.certificate)
    if replaced:
        (tmp_path / replaced).write_bytes(new.key)
    told: list[bool] = []

    with pytest.raises(ResourceError, match="cannot use the certificate") as raised:
        await resume_at(tmp_path, "uid.machine.dvcr")("127.0.0.2", lambda: told.append(True))

    assert (raised.value.retryable, told) == (True, [])
