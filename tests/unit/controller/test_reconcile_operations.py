"""Operations: refused with a reason, one at a time, pushed aside by force, and removed in time."""

import pytest

from controller.api.resource import MACHINE, OPERATION, POD
from controller.operations.concerns import operations_beside
from tests.unit.controller.test_reconcile_story import MACHINE_SPEC, running_machine
from tests.unit.controller.world import OPERATION_TTL_S, World, operate

ON, UNLESS, MANUAL = "AlwaysOn", "AlwaysOnUnlessStoppedManually", "Manual"


def message(world: World, name: str) -> str:
    text: str = world.condition(OPERATION, name, "Completed")["message"]
    return text


@pytest.mark.parametrize(
    ("policy", "kind", "reason", "told"),
    [
        (ON, "Stop", "NotAllowedByRunPolicy", "only with AlwaysOnUnlessStoppedManually, Manual"),
        (ON, "Start", "NotAllowedByRunPolicy", "run policy AlwaysOn"),
        ("AlwaysOff", "Start", "NotAllowedByRunPolicy", "run policy AlwaysOff"),
        ("AlwaysOff", "Restart", "NotAllowedByRunPolicy", "run policy AlwaysOff"),
        (UNLESS, "Start", "NotAllowedInPhase", "while the machine is Running, only while it is Failed, Stopped"),
        (MANUAL, "Stop", "NotAllowedInPhase", "while the machine is Stopped"),
    ],
)
def test_operations_that_are_refused(policy: str, kind: str, reason: str, told: str) -> None:
    world = World()
    running_machine(world, runPolicy=policy)
    status = operate(world, kind)
    assert (status["phase"], status["failureReason"]) == ("Failed", reason)
    assert told in status["failureMessage"]


def test_an_operation_on_no_machine_fails() -> None:
    assert operate(World(), "Stop")["failureReason"] == "VirtualMachineNotFound"


def test_one_operation_at_a_time() -> None:
    world = World()
    running_machine(world)
    operate(world, "Restart", "first")
    assert operate(world, "Stop", "second")["phase"] == "Pending"
    assert world.condition(OPERATION, "second", "Completed")["reason"] == "OtherOperationInProgress"
    world.finish_deletion()
    world.run_pod()
    assert world.status(OPERATION, "first")["phase"] == "Completed"
    assert world.status(OPERATION, "second")["phase"] == "InProgress"
    world.finish_deletion()
    assert world.status(OPERATION, "second")["phase"] == "Completed"
    assert world.status(MACHINE, "web")["phase"] == "Stopped"


def later(world: World, kind: str, name: str, second: int) -> None:
    """An operation that is made `second` seconds after those of `operate`."""
    spec = {"type": kind, "virtualMachineName": "web"}
    metadata = {"name": name, "namespace": "default", "creationTimestamp": f"2026-01-01T00:00:{second:02}Z"}
    world.cluster.create(OPERATION, {"kind": OPERATION.kind, "metadata": metadata, "spec": spec})
    world.settle()


def test_operations_that_wait_come_in_the_order_in_which_they_were_made() -> None:
    world = World()
    running_machine(world)
    operate(world, "Restart", "first")
    later(world, "Stop", "a-third", 2)
    later(world, "Restart", "b-second", 1)
    world.finish_deletion()
    world.run_pod()
    assert world.status(OPERATION, "first")["phase"] == "Completed"
    assert world.status(OPERATION, "b-second")["phase"] == "InProgress"
    assert message(world, "a-third") == "waits for operation 'b-second'"
    world.finish_deletion()
    world.run_pod()
    assert world.status(OPERATION, "b-second")["phase"] == "Completed"
    world.finish_deletion()
    assert world.status(OPERATION, "a-third")["phase"] == "Completed"


def test_a_forced_operation_does_not_queue() -> None:
    world = World()
    running_machine(world)
    operate(world, "Restart", "first")
    later(world, "Restart", "second", 1)
    assert operate(world, "Stop", "now", force=True)["phase"] == "InProgress"


def test_an_operation_that_waits_hears_that_the_one_before_it_has_ended() -> None:
    world = World()
    running_machine(world)
    operate(world, "Restart", "first")
    later(world, "Stop", "second", 1)
    assert list(operations_beside(("default", "first"), world.cluster)) == [("default", "second")]
    assert list(operations_beside(("default", "gone"), world.cluster)) == []


def test_an_operation_that_is_deleted_takes_its_request_back() -> None:
    world = World()
    running_machine(world)
    operate(world, "Restart", "first")
    world.delete(OPERATION, "first")
    assert world.find(OPERATION, "first") is None
    world.finish_deletion()
    world.run_pod()
    assert operate(world, "Stop", "second")["phase"] == "InProgress"


def test_an_operation_says_what_it_waits_for() -> None:
    world = World()
    running_machine(world)
    operate(world, "Stop")
    world.settle()
    assert message(world, "op") == "waits for the machine to stop; it is Stopping (the guest was asked to power off)"


@pytest.mark.parametrize(("waiting", "ends_as"), [("Stop", "Completed"), ("Restart", "Failed")])
def test_a_forced_stop_takes_the_place_of_one_that_waits_for_the_guest(waiting: str, ends_as: str) -> None:
    world = World()
    running_machine(world)
    operate(world, waiting, "patient")
    assert operate(world, "Stop", "now", force=True)["phase"] == "InProgress"
    status = world.status(OPERATION, "patient")
    assert (status["phase"], world.condition(OPERATION, "patient", "Completed")["reason"]) == (ends_as, "Superseded")
    assert message(world, "patient") == "operation 'now' took its place by force"
    assert world.get(POD, "vm-web")["metadata"]["deletionGracePeriodSeconds"] == 1
    world.finish_deletion()
    assert world.status(OPERATION, "now")["phase"] == "Completed"
    assert world.status(MACHINE, "web")["phase"] == "Stopped"


@pytest.mark.parametrize("force", [False, True])
def test_a_stop_takes_the_place_of_a_start_that_waits(force: bool) -> None:
    world = World()
    world.apply(MACHINE, "web", {**MACHINE_SPEC, "runPolicy": MANUAL})
    operate(world, "Start", "first")
    assert world.status(MACHINE, "web")["phase"] == "Pending", "its disk is missing"
    assert operate(world, "Stop", "second", force=force)["phase"] == "Completed"
    assert world.status(OPERATION, "first")["failureReason"] == "Superseded"
    assert message(world, "first") == f"operation 'second' took its place{' by force' if force else ''}"
    assert world.status(MACHINE, "web")["phase"] == "Stopped"
    assert world.condition(MACHINE, "web", "Running")["reason"] == "Stopped"
    assert operate(world, "Start", "third")["phase"] == "InProgress"


def test_a_stop_that_comes_right_after_a_start_takes_its_place() -> None:
    world = World()
    running_machine(world, runPolicy=MANUAL)
    for kind in ("Start", "Stop"):
        spec = {"type": kind, "virtualMachineName": "web"}
        metadata = {"name": kind.lower(), "namespace": "default"}
        world.cluster.create(OPERATION, {"kind": OPERATION.kind, "metadata": metadata, "spec": spec})
        # The machine has not looked yet.
        world.reconcilers[OPERATION].reconcile(("default", kind.lower()))
    assert world.status(MACHINE, "web")["phase"] == "Stopped"
    world.settle()
    assert world.status(OPERATION, "start")["failureReason"] == "Superseded"
    assert world.status(OPERATION, "stop")["phase"] == "Completed"
    assert world.find(POD, "vm-web") is None


def test_a_forced_restart_gives_the_guest_no_time() -> None:
    world = World()
    running_machine(world, runPolicy=ON)
    before = world.get(POD, "vm-web")["metadata"]["uid"]
    operate(world, "Restart", force=True)
    assert world.get(POD, "vm-web")["metadata"]["deletionGracePeriodSeconds"] == 1
    world.finish_deletion()
    world.run_pod()
    assert world.status(OPERATION, "op")["phase"] == "Completed"
    assert world.get(POD, "vm-web")["metadata"]["uid"] != before


@pytest.mark.parametrize("policy", [ON, UNLESS, MANUAL])
def test_a_launcher_that_a_forced_restart_kills_has_not_crashed(policy: str) -> None:
    world = World()
    running_machine(world, runPolicy=policy)
    if policy == MANUAL:
        operate(world, "Start", "start")
        world.run_pod()
    operate(world, "Restart", force=True)
    world.kill_pod()
    assert world.status(MACHINE, "web")["phase"] == "Scheduling"
    assert world.status(OPERATION, "op")["phase"] == "InProgress"
    world.run_pod()
    assert world.status(OPERATION, "op")["phase"] == "Completed"
    assert "crashes" not in world.status(MACHINE, "web")["power"]


def test_a_launcher_that_a_forced_stop_kills_has_not_crashed() -> None:
    world = World()
    running_machine(world)
    operate(world, "Stop", force=True)
    world.kill_pod()
    assert world.status(OPERATION, "op")["phase"] == "Completed"
    assert world.status(MACHINE, "web")["phase"] == "Stopped"
    assert world.condition(MACHINE, "web", "Running")["reason"] == "Killed"
    assert "crashes" not in world.status(MACHINE, "web")["power"]


def test_a_start_ends_the_pause_after_a_crash() -> None:
    world = World()
    running_machine(world)
    world.end_pod("Failed", "QEMU died")
    assert world.find(POD, "vm-web") is None
    operate(world, "Start")
    world.run_pod()
    assert world.status(OPERATION, "op")["phase"] == "Completed"
    assert "crashes" not in world.status(MACHINE, "web")["power"]


@pytest.mark.parametrize(("policy", "phase"), [(MANUAL, "Stopped"), (UNLESS, "Failed")])
def test_a_start_that_crashes_fails_and_leaves_the_rest_to_the_run_policy(policy: str, phase: str) -> None:
    world = World()
    running_machine(world, runPolicy=policy)
    if policy == UNLESS:
        operate(world, "Stop", "stop")
        world.finish_deletion()
    operate(world, "Start")
    world.end_pod("Failed", "QEMU refused the memory")
    status = world.status(OPERATION, "op")
    assert (status["phase"], status["failureReason"]) == ("Failed", "MachineCrashed")
    assert status["failureMessage"] == "the machine crashed: QEMU refused the memory"
    assert world.find(POD, "vm-web") is None
    assert world.status(MACHINE, "web")["phase"] == phase
    world.pass_time(6)
    world.settle()
    assert (world.find(POD, "vm-web") is None) == (policy == MANUAL)


def test_an_operation_that_the_run_policy_forbids_meanwhile_fails() -> None:
    world = World()
    running_machine(world, runPolicy=MANUAL)
    operate(world, "Start")
    world.change(MACHINE, "web", {"runPolicy": "AlwaysOff"})
    assert world.status(OPERATION, "op")["failureReason"] == "NotAllowedByRunPolicy"
    assert world.get(MACHINE, "web")["metadata"]["annotations"] == {}


def test_operations_that_ended_are_removed_after_a_day() -> None:
    world = World()
    running_machine(world)
    operate(world, "Start", "refused")
    operate(world, "Restart", "waits")
    operate(world, "Stop", "done", force=True)
    world.finish_deletion()
    world.pass_time(OPERATION_TTL_S - 1)
    world.settle()
    assert {o["metadata"]["name"] for o in world.cluster.list(OPERATION)} == {"waits", "refused", "done"}
    world.pass_time(1)
    world.settle()
    assert world.cluster.list(OPERATION) == []
