"""Whether a machine is to run: run policy, operations, and how it ended last. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from controller.api.machine import Power, RunPolicy
from controller.launcher.spec import CRASHES, TerminationReason
from controller.runtime.conditions import read_time, write_time

_FIRST_PAUSE_S = 5
_LONGEST_PAUSE_S = 300
CALM_AFTER = timedelta(minutes=10)
"""A machine that ran this long is not in a crash loop."""


@dataclass(frozen=True)
class Intent:
    """What the power switch is to be, and since when a start may happen."""

    on: bool
    not_before: datetime | None = None


def first_power(policy: RunPolicy) -> Power:
    """Of a machine that was just created: only Manual begins switched off."""
    return Power(desired="Off" if policy is RunPolicy.MANUAL else "On")


def intent(policy: RunPolicy, power: Power) -> Intent:
    """What the policy makes of the memory."""
    on = {
        RunPolicy.ALWAYS_ON: True,
        RunPolicy.ALWAYS_OFF: False,
        RunPolicy.MANUAL: power.desired == "On",
        RunPolicy.ALWAYS_ON_UNLESS_STOPPED_MANUALLY: power.desired == "On",
    }[policy]
    if not on or not power.crashes or power.crashed_at is None:
        return Intent(on)
    pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(power.crashes - 1, 10))
    return Intent(on, read_time(power.crashed_at) + timedelta(seconds=pause_s))


def after_termination(
    policy: RunPolicy, power: Power, reason: TerminationReason, started: datetime | None, now: datetime
) -> Power:
    """The memory after the launcher ended for `reason`.

    A guest that powers off leaves the machine off, one that reboots leaves it on, and a crash counts: only Manual stays
    off after it. A machine that was asked to stop stays as it was wanted.
    """
    if reason in CRASHES:
        calm = started is not None and now - started > CALM_AFTER
        crashes = 1 if calm else (power.crashes or 0) + 1
        desired: Literal["On", "Off"] = "Off" if policy is RunPolicy.MANUAL else power.desired
        return power.model_copy(update={"desired": desired, "crashes": crashes, "crashed_at": write_time(now)})
    forget = {"crashes": None, "crashed_at": None}
    if reason is TerminationReason.GUEST_SHUTDOWN:
        return power.model_copy(update={"desired": "Off", **forget})
    return power.model_copy(update=forget)
