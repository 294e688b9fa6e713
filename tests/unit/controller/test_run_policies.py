"""Run policies: what follows each way to end, and which operations are allowed, for every combination."""

import pytest

from controller.api.machine import MachinePhase, Power, RunPolicy
from controller.api.operation import OperationType
from controller.api.resource import MACHINE, POD
from controller.launcher.spec import CRASHES, TerminationReason
from controller.machines.power import after_termination, first_power, intent
from controller.machines.request import PowerRequest
from controller.operations.table import displaces, refusal
from tests.unit.controller.test_reconcile_story import running_machine
from tests.unit.controller.world import NOW, World, operate

ON, OFF = RunPolicy.ALWAYS_ON, RunPolicy.ALWAYS_OFF
MANUAL, UNLESS = RunPolicy.MANUAL, RunPolicy.ALWAYS_ON_UNLESS_STOPPED_MANUALLY
END = TerminationReason

RUNS_AGAIN = {
    ON: set(END),
    UNLESS: set(END) - {END.GUEST_SHUTDOWN},
    MANUAL: {END.GUEST_RESET, END.STOPPED, END.KILLED, END.MOVED, END.NOT_ARRIVED},
    OFF: set(),
}


@pytest.mark.parametrize("policy", RunPolicy)
@pytest.mark.parametrize("end", TerminationReason)
def test_whether_a_machine_runs_again_after_each_end(policy: RunPolicy, end: TerminationReason) -> None:
    after = after_termination(policy, Power(desired="On"), end, None, NOW)

    assert intent(policy, after).on == (end in RUNS_AGAIN[policy])
    assert (intent(policy, after).not_before is not None) == (end in CRASHES and policy in (ON, UNLESS))


@pytest.mark.parametrize("policy", RunPolicy)
@pytest.mark.parametrize("end", TerminationReason)
def test_a_machine_that_an_operation_stopped_stays_as_it_was_wanted(policy: RunPolicy, end: TerminationReason) -> None:
    after = after_termination(policy, Power(desired="Off"), end, None, NOW)

    assert intent(policy, after).on == (policy is ON)


@pytest.mark.parametrize(("policy", "on"), [(ON, True), (OFF, False), (MANUAL, False), (UNLESS, True)])
def test_how_a_machine_begins(policy: RunPolicy, on: bool) -> None:
    assert intent(policy, first_power(policy)).on == on


@pytest.mark.parametrize("policy", [ON, UNLESS, MANUAL])
@pytest.mark.parametrize("end", TerminationReason)
def test_what_the_reconciler_makes_of_each_end(policy: RunPolicy, end: TerminationReason) -> None:
    world = World()
    running_machine(world, runPolicy=policy)
    if policy is MANUAL:
        assert world.status(MACHINE, "web")["phase"] == "Stopped", "created off"
        operate(world, "Start", "first")
        world.run_pod()
    before = world.get(POD, "vm-web")["metadata"]["uid"]

    world.end_pod(end)

    pod, status = world.find(POD, "vm-web"), world.status(MACHINE, "web")
    if end in RUNS_AGAIN[policy] and end not in CRASHES:
        assert pod is not None
        assert pod["metadata"]["uid"] != before
        assert status["phase"] == "Scheduling"
    else:
        assert pod is None
        loops = end in CRASHES and policy is not MANUAL
        assert status["phase"] == ("Failed" if loops else "Stopped")
        assert world.condition(MACHINE, "web", "Running")["reason"] == ("CrashLoopBackOff" if loops else end)
    world.pass_time(6)
    world.settle()
    assert (world.find(POD, "vm-web") is not None) == (end in RUNS_AGAIN[policy])


def test_a_machine_that_always_on_started_again_runs_on_when_the_policy_changes() -> None:
    world = World()
    running_machine(world, runPolicy=ON)
    world.end_pod(END.GUEST_SHUTDOWN)
    world.run_pod()
    pod = world.get(POD, "vm-web")["metadata"]["uid"]

    world.change(MACHINE, "web", {"runPolicy": UNLESS})

    assert world.get(POD, "vm-web")["metadata"]["uid"] == pod
    assert world.status(MACHINE, "web")["phase"] == "Running"


def test_a_machine_that_was_created_off_runs_on_when_the_policy_changes_back() -> None:
    world = World()
    running_machine(world, runPolicy=MANUAL)
    world.change(MACHINE, "web", {"runPolicy": ON})
    world.run_pod()
    pod = world.get(POD, "vm-web")["metadata"]["uid"]

    world.change(MACHINE, "web", {"runPolicy": MANUAL})

    assert world.get(POD, "vm-web")["metadata"]["uid"] == pod
    assert world.status(MACHINE, "web")["phase"] == "Running"


ALLOWED = {
    OperationType.START: ({MANUAL, UNLESS}, {"Stopped", "Failed"}, set()),
    OperationType.STOP: (
        {MANUAL, UNLESS},
        {"Pending", "Scheduling", "Starting", "Running", "Pause", "Failed"},
        {"Stopping", "Migrating"},
    ),
    OperationType.RESTART: (
        {MANUAL, UNLESS, ON},
        {"Scheduling", "Starting", "Running", "Pause", "Failed"},
        {"Stopping", "Migrating"},
    ),
    OperationType.MIGRATE: ({MANUAL, UNLESS, ON}, {"Running"}, set()),
    OperationType.EVICT: ({MANUAL, UNLESS, ON}, {"Running"}, set()),
}


@pytest.mark.parametrize("operation", ALLOWED)
@pytest.mark.parametrize("policy", RunPolicy)
@pytest.mark.parametrize("phase", MachinePhase)
@pytest.mark.parametrize("force", [False, True])
def test_which_operation_is_allowed_when(
    operation: OperationType, policy: RunPolicy, phase: MachinePhase, force: bool
) -> None:
    policies, phases, forced = ALLOWED[operation]
    refused = refusal(operation, policy, phase, force=force)

    if policy not in policies:
        assert refused is not None
        assert refused.reason == "NotAllowedByRunPolicy"
        assert policy in refused.message
    elif phase not in phases | (forced if force else set()):
        assert refused is not None
        assert refused.reason == "NotAllowedInPhase"
        assert phase in refused.message
    else:
        assert refused is None


@pytest.mark.parametrize(
    ("operation", "force", "current", "current_force", "does"),
    [
        ("Stop", True, "Stop", False, True),
        ("Stop", True, "Restart", False, True),
        ("Restart", True, "Restart", False, True),
        ("Restart", True, "Stop", False, False),
        ("Stop", False, "Restart", False, False),
        ("Stop", True, "Stop", True, False),
        ("Stop", False, "Start", False, True),
        ("Stop", True, "Start", True, True),
        ("Restart", True, "Start", False, False),
        ("Start", False, "Stop", False, False),
    ],
)
def test_which_operation_pushes_which_aside(
    operation: str, force: bool, current: str, current_force: bool, does: bool
) -> None:
    request = PowerRequest("u", "name", OperationType(current), current_force, "pod")

    assert displaces(OperationType(operation), request, force=force) == does
