"""Waiting for a condition, instead of for a time."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], what: str, timeout_s: float = 20, interval_s: float = 0.02) -> None:
    """Return once `condition()` is true; AssertionError saying `what` did not happen within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(interval_s)
