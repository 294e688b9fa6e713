"""Working only while the Lease is ours."""

import os
import threading
from collections.abc import Callable
from typing import Protocol

import structlog

from controller.runtime.lease import DURATION_S, RENEW_DEADLINE_S, LeaderLease
from dvcr.errors import DvcrError

_GRACE_S = DURATION_S - RENEW_DEADLINE_S - 1
"""For what is under way when the right is lost. The second that is left is the margin to another's first pass."""
_JOIN_TIMEOUT_S = 10

_log = structlog.get_logger(__name__)


class Work(Protocol):
    """What only a leader does."""

    def run(self, stopping: threading.Event, on_ready: Callable[[], None]) -> None:
        """Do it until `stopping` is set."""
        ...

    @property
    def idle(self) -> bool:
        """Whether nothing of it goes on any more."""
        ...


def lead(lease: LeaderLease, work: Work, stopping: threading.Event, on_ready: Callable[[], None]) -> None:
    """Work once the lease is ours, until it is lost (DvcrError `LeadershipLost`) or `stopping` is set.

    The lease is given back only when nothing goes on any more. Whoever loses it has ended before another can have it:
    where a request that hangs would keep work from stopping in time, the process is ended at once, with status 1.
    """
    if not lease.acquire(stopping):
        return
    finished, lost = threading.Event(), threading.Event()

    def guard() -> None:
        if not lease.outlast(finished):
            return
        lost.set()
        stopping.set()
        if not finished.wait(_GRACE_S):
            _log.error("lost the right to lead in the middle of a pass, which is broken off")
            os._exit(1)

    threads = [
        threading.Thread(target=lease.keep, args=(finished,), name="lease", daemon=True),
        threading.Thread(target=guard, name="leadership", daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        work.run(stopping, on_ready)
    finally:
        if work.idle:
            finished.set()
            for thread in threads:
                thread.join(_JOIN_TIMEOUT_S)
            if not lost.is_set():
                lease.release()
    if lost.is_set():
        message = f"lost the right to lead: the lease was not renewed for {RENEW_DEADLINE_S} s, or another took it"
        raise DvcrError(message, reason="LeadershipLost")
