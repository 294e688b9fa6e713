"""Conditions and times as Kubernetes writes them."""

from collections.abc import Callable
from datetime import UTC, datetime

from controller.api.model import Condition

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def write_time(moment: datetime) -> str:
    """RFC 3339 in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_time(text: str) -> datetime:
    """The inverse of `write_time`; also takes fractions of seconds."""
    return datetime.fromisoformat(text)


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
