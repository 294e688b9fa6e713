"""What follows from what is known of the two pods of a machine that moves."""

from dataclasses import replace

import pytest

from controller.launcher.spec import (
    MachineState,
    MachineStatus,
    MigrationState,
    MigrationStatus,
    Termination,
    TerminationReason,
)
from controller.machines.migration_decision import Action, Side, View, decide

GONE = Side(exists=False)
SILENT = Side(exists=True)


def source(state: MigrationState | None = None, *, told: bool = False, id: str = "op") -> Side:  # noqa: A002
    migration = MigrationStatus(id=id, state=state, told=told) if state else None
    return Side(exists=True, launcher=MachineStatus(state=MachineState.RUNNING, accelerator="tcg", migration=migration))


def target(state: MachineState, accelerator: str = "tcg") -> Side:
    return Side(exists=True, launcher=MachineStatus(state=state, accelerator=accelerator))


def ended(reason: TerminationReason) -> Side:
    return Side(exists=False, end=Termination(reason=reason))


INCOMING, RECEIVED, RUNNING = (
    target(MachineState.INCOMING),
    target(MachineState.RECEIVED),
    target(MachineState.RUNNING),
)
ACTIVE, SENT, DONE, FAILED = MigrationState.ACTIVE, MigrationState.SENT, MigrationState.DONE, MigrationState.FAILED
VIEW = View(id="op", wanted=True, created=True, overdue=False, reachable=True, source=source(), target=INCOMING)


@pytest.mark.parametrize(
    ("here", "there", "action"),
    [
        (source(), SILENT, Action.WAIT),
        (source(), target(MachineState.STARTING), Action.WAIT),
        (source(), INCOMING, Action.ORDER),
        (source(FAILED, id="an earlier one"), INCOMING, Action.ORDER),
        (source(), target(MachineState.INCOMING, "kvm"), Action.FAIL),
        (source(ACTIVE), INCOMING, Action.WAIT),
        (source(FAILED), INCOMING, Action.FAIL),
        (source(SENT, told=True), RECEIVED, Action.WAIT),
        (source(SENT, told=True), RUNNING, Action.WAIT),
        (source(DONE), RUNNING, Action.COMPLETE),
        (source(DONE), SILENT, Action.COMPLETE),
        (SILENT, INCOMING, Action.WAIT),
        (SILENT, RUNNING, Action.COMPLETE),
        # The target is lost.
        (source(), GONE, Action.FAIL),
        (source(ACTIVE), GONE, Action.WAIT),
        (source(SENT), GONE, Action.ROLL_BACK),
        (source(SENT, told=True), GONE, Action.GIVE_UP),
        (source(SENT, told=True), ended(TerminationReason.FAILED), Action.GIVE_UP),
        (source(SENT, told=True), ended(TerminationReason.NOT_ARRIVED), Action.ROLL_BACK),
        (source(DONE), ended(TerminationReason.GUEST_SHUTDOWN), Action.COMPLETE),
        (SILENT, GONE, Action.WAIT),
        # The source is lost.
        (ended(TerminationReason.GUEST_SHUTDOWN), INCOMING, Action.FAIL),
        (ended(TerminationReason.FAILED), RECEIVED, Action.FAIL),
        (ended(TerminationReason.GUEST_SHUTDOWN), SILENT, Action.FAIL),
        (ended(TerminationReason.FAILED), SILENT, Action.WAIT),
        (GONE, RECEIVED, Action.FAIL),
        (GONE, SILENT, Action.WAIT),
        (ended(TerminationReason.MOVED), RECEIVED, Action.RESUME),
        (ended(TerminationReason.MOVED), SILENT, Action.WAIT),
        (ended(TerminationReason.MOVED), RUNNING, Action.COMPLETE),
        (ended(TerminationReason.MOVED), ended(TerminationReason.GUEST_RESET), Action.COMPLETE),
        (GONE, RUNNING, Action.COMPLETE),
        (GONE, GONE, Action.FAIL),
    ],
)
def test_what_follows(here: Side, there: Side, action: Action) -> None:
    assert decide(replace(VIEW, source=here, target=there)).action is action


@pytest.mark.parametrize(
    ("here", "there", "action"),
    [
        (source(), INCOMING, Action.FAIL),
        (source(ACTIVE), INCOMING, Action.CANCEL),
        # Too late.
        (source(SENT, told=True), RECEIVED, Action.WAIT),
        (source(DONE), RUNNING, Action.COMPLETE),
        # Nobody is left to wait for.
        (GONE, SILENT, Action.FAIL),
    ],
)
def test_a_move_that_is_called_off(here: Side, there: Side, action: Action) -> None:
    assert decide(replace(VIEW, source=here, target=there, wanted=False)).action is action


@pytest.mark.parametrize("there", [SILENT, INCOMING])
def test_what_has_left_is_given_up_only_late_and_when_that_is_asked_for(there: Side) -> None:
    view = replace(VIEW, source=ended(TerminationReason.MOVED), target=there, wanted=False, overdue=True)

    assert (decide(view).action, decide(view).reason) == (Action.FAIL, "OutcomeUnknown")
    assert decide(replace(view, wanted=True)).action is Action.WAIT
    assert decide(replace(view, overdue=False)).action is Action.WAIT
    assert decide(replace(view, target=RECEIVED)).action is Action.RESUME


def test_the_target_is_made_once() -> None:
    not_made = replace(VIEW, created=False, target=GONE)

    assert decide(not_made).action is Action.CREATE
    assert decide(replace(not_made, wanted=False)).action is Action.FAIL
    assert decide(replace(not_made, source=ended(TerminationReason.GUEST_SHUTDOWN))).action is Action.FAIL


def test_a_target_that_cannot_have_been_reached_is_not_waited_for() -> None:
    assert decide(replace(VIEW, source=GONE, target=SILENT, reachable=False)).action is Action.FAIL


def test_a_target_that_never_gets_ready_is_given_up_in_time() -> None:
    waits = Side(exists=True, launcher=MachineStatus(state=MachineState.STARTING, message="no registry"))

    assert decide(replace(VIEW, target=waits)).action is Action.WAIT
    late = decide(replace(VIEW, target=waits, overdue=True))
    assert (late.action, late.reason) == (Action.FAIL, "NoNode")
    assert "no registry" in late.message


def test_progress_is_told() -> None:
    sending = MigrationStatus(id="op", state=ACTIVE, total_bytes=256 * 2**20, remaining_bytes=64 * 2**20)
    here = Side(exists=True, launcher=MachineStatus(state=MachineState.RUNNING, migration=sending))

    assert decide(replace(VIEW, source=here)).message == "the machine's memory is sent: 64 of 256 MiB are left"
