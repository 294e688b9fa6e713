"""Conditions and times as Kubernetes writes them."""

from collections.abc import Callable
from datetime import UTC, datetime

from controller.api.model import Condition

Clock = Callable[[], datetime]

_ON_THE_WAY = dict.fromkeys(("Pending", "Provisioning"), "not Ready yet")


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def write_time(moment: datetime) -> str:
    """RFC 3339 in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_time(text: str) -> datetime:
    """The inverse of `write_time`; also takes fractions of seconds."""
    return datetime.fromisoformat(text)


def waits_for(label: str, phase: str) -> str:
    """What is said of an object that waits for another one, which tells itself how far it is.

    The same all the way to Ready: a message of its own for each phase of an image would be another write of all that
    wait for it.
    """
    return f"waits for {label}, which is {_ON_THE_WAY.get(phase, phase)}"


def find_condition(conditions: list[Condition], condition_type: str) -> Condition | None:
    """The condition of that type."""
    return next((condition for condition in conditions if condition.type == condition_type), None)


def set_condition(conditions: list[Condition], new: Condition) -> None:
    """Put the condition in place of the one of its type; the time of transition moves only if status or reason do."""
    for index, old in enumerate(conditions):
        if old.type == new.type:
            if old.status == new.status and old.reason == new.reason:
                new = new.model_copy(update={"last_transition_time": old.last_transition_time})
            conditions[index] = new
            return
    conditions.append(new)
