"""What to do next with a machine that moves, from what is known of both its pods. Pure.

A machine must never run twice, and what ran on the target must not be undone by the source's older memory. So a pod
that is no more counts only by what its launcher's last word proves; where nothing proves that the machine did not run
on the target, the source is given up and the machine starts anew from its disks.
"""

from dataclasses import dataclass
from enum import StrEnum

from controller.launcher.spec import (
    MachineState,
    MachineStatus,
    MigrationState,
    MigrationStatus,
    Termination,
    TerminationReason,
)

_RUNS = (MachineState.RUNNING, MachineState.PAUSED, MachineState.STOPPING, MachineState.MOVED)


@dataclass(frozen=True)
class Side:
    """One of the two pods."""

    exists: bool
    """Whether its containers may still run."""
    launcher: MachineStatus | None = None
    """None: it does not answer."""
    end: Termination | None = None
    """The last word of one that has ended, if it left one."""


@dataclass(frozen=True)
class View:
    """What is known."""

    id: str
    wanted: bool
    """False: the move is to be broken off if it still can be."""
    created: bool
    """Whether the target pod was made at some time."""
    overdue: bool
    """Whether the target has had enough time to get ready, from the beginning of the move."""
    reachable: bool
    """Whether the target has an address; before, nobody can have sent the machine there."""
    source: Side
    target: Side


class Action(StrEnum):
    CREATE = "create"
    """Make the target pod."""
    ORDER = "order"
    """Have the source's launcher send the machine."""
    CANCEL = "cancel"
    """Have it break off."""
    RESUME = "resume"
    """Have the target run the machine: the source has left and cannot say so itself any more."""
    ROLL_BACK = "rollBack"
    """Have the source run the machine again: the target never will."""
    WAIT = "wait"
    COMPLETE = "complete"
    """The machine has moved."""
    FAIL = "fail"
    """The machine has not moved, and whatever the source does is its own affair again."""
    GIVE_UP = "giveUp"
    """Nobody knows whether the machine ran on the target: neither may go on."""


@dataclass(frozen=True)
class Decision:
    action: Action
    reason: str = ""
    message: str = ""


def decide(view: View) -> Decision:
    """The next step."""
    here, there = view.source.launcher, view.target.launcher
    sent = here.migration if here is not None and here.migration and here.migration.id == view.id else None
    if sent is not None and sent.state is MigrationState.DONE:
        return Decision(Action.COMPLETE)
    # A source that asked for it will hear of it in a moment, and then knows how long the guest stood still.
    if there is not None and there.state in _RUNS and (sent is None or sent.state is not MigrationState.SENT):
        return Decision(Action.COMPLETE)
    if not view.source.exists:
        return _without_source(view, there)
    if here is None:
        return Decision(Action.WAIT, "SourceSilent", "the launcher that runs the machine does not answer")
    if sent is not None and sent.state is MigrationState.FAILED:
        return Decision(Action.FAIL, "MigrationFailed", sent.message)
    if not view.target.exists:
        return _without_target(view, sent)
    if sent is None:
        return _before_sending(view, there)
    if sent.state is MigrationState.SENT:
        return Decision(Action.WAIT, "HandingOver", sent.message or "the machine is about to run on the other node")
    return Decision(Action.WAIT if view.wanted else Action.CANCEL, "Moving", _progress(sent))


def _without_source(view: View, there: MachineStatus | None) -> Decision:
    end = view.source.end
    # A launcher that failed does not prove that its machine had not left.
    unproven = end is None or end.reason is TerminationReason.FAILED
    if unproven and view.wanted and view.target.exists and view.reachable and there is None:
        message = "the pod that the machine was to leave is gone, and the other one, which may run it, does not answer"
        return Decision(Action.WAIT, "TargetSilent", message)
    if end is None or end.reason is not TerminationReason.MOVED:
        return Decision(Action.FAIL, "SourceEnded", "the machine ended before it had moved")
    if not view.target.exists:
        # It moved, and ended there: that end counts.
        return Decision(Action.COMPLETE)
    if there is not None and there.state is MachineState.RECEIVED:
        return Decision(Action.RESUME, "HandingOver", "the machine is about to run on the other node")
    if view.overdue and not view.wanted:
        message = "the move was called off, and the pod that received the machine does not run it; it starts anew"
        return Decision(Action.FAIL, "OutcomeUnknown", message)
    if there is None:
        message = "the machine has left, and the pod that received it does not answer; a forced Stop gives it up"
        return Decision(Action.WAIT, "TargetSilent", message)
    return Decision(Action.WAIT, "HandingOver", "waits for the launcher that has received the machine")


def _without_target(view: View, sent: MigrationStatus | None) -> Decision:
    if not view.created:
        if view.wanted:
            return Decision(Action.CREATE, "Preparing", "a pod on another node is made")
        return Decision(Action.FAIL, "Cancelled", "the move was called off")
    end = view.target.end
    why = f": {end.message}" if end is not None and end.message else ""
    if sent is None:
        return Decision(Action.FAIL, "TargetLost", f"the pod that was to take the machine in is gone{why}")
    if sent.state is MigrationState.ACTIVE:
        return Decision(Action.WAIT, "TargetLost", "the other pod is gone; waits for QEMU to notice")
    if not sent.told or (end is not None and end.reason is TerminationReason.NOT_ARRIVED):
        return Decision(Action.ROLL_BACK, "TargetLost", f"the other pod is gone{why}; the machine goes on here")
    message = (
        f"the other pod is gone{why}, and it is not known whether the machine ran there; it starts anew from its disks"
    )
    return Decision(Action.GIVE_UP, "OutcomeUnknown", message)


def _before_sending(view: View, there: MachineStatus | None) -> Decision:
    if not view.wanted:
        return Decision(Action.FAIL, "Cancelled", "the move was called off")
    waits = (there.message if there is not None else "") or "waits for a pod on another node"
    if view.overdue:
        return Decision(Action.FAIL, "NoNode", f"no other node took the machine in time: {waits}")
    if there is not None and there.state is MachineState.INCOMING:
        here = view.source.launcher
        if here is not None and here.accelerator != there.accelerator:
            message = f"the machine runs on {here.accelerator}, the other node has {there.accelerator}"
            return Decision(Action.FAIL, "AcceleratorDiffers", message)
        return Decision(Action.ORDER, "Moving", "the machine's memory is sent")
    return Decision(Action.WAIT, "Preparing", waits)


def _progress(sent: MigrationStatus) -> str:
    if not sent.total_bytes:
        return "the machine's memory is sent"
    left_mib = sent.remaining_bytes // 2**20
    return f"the machine's memory is sent: {left_mib} of {sent.total_bytes // 2**20} MiB are left"
