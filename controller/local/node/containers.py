"""One container of a pod: its runs on disk, one after the other.

<container>/root/     what the process sees as its file system, made anew for each run
<container>/<n>/      run number n (see process.py), with its log; the last two are kept
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from controller.local.node.clock import parse_timestamp
from controller.local.node.process import Exit, Process, Run
from controller.local.node.restarts import Backoff, restarts
from controller.local.node.status import ContainerView

Object = dict[str, Any]


class Container:
    """A container's process through all its restarts. Not thread-safe: belongs to its pod's worker."""

    def __init__(self, folder: Path, spec: Object, backoff: Backoff) -> None:
        self.folder = folder
        self.spec = spec
        self.name = str(spec["name"])
        self._backoff = backoff
        self.waiting = ("", "")
        numbers = run_numbers(folder)
        self._number = numbers[-1] if numbers else -1
        self._process = Process(folder / str(self._number)) if numbers else None
        self._previous = Process(folder / str(numbers[-2])).exit() if len(numbers) > 1 else None
        self._was_alive = False

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def process(self) -> Process | None:
        """The latest run, if there was one."""
        return self._process

    @property
    def alive(self) -> bool:
        self._was_alive = self._process is not None and self._process.alive
        return self._was_alive

    @property
    def was_alive(self) -> bool:
        """What `alive` said last: on this the pod's worker, and what it reported, rely."""
        return self._was_alive

    def ended(self) -> Exit | None:
        """How the latest run ended; None while it runs or before the first."""
        return self._process.exit() if self._process else None

    def finished(self, policy: str) -> bool:
        """Whether the latest run ended and the pod's restart policy lets it rest."""
        end = self.ended()
        return end is not None and not restarts(policy, end.exit_code)

    def start_in_s(self) -> float:
        """Seconds until the next run may start: 0 for now."""
        end = self.ended()
        if end is None:
            return 0
        pause_s = self._pause_s(end)
        return max(0.0, parse_timestamp(end.finished_at).timestamp() + pause_s - time.time())

    def start(self, prepare: Callable[[], Run]) -> None:
        """Begin the next run. `prepare` makes the root folder and says what to run; what it raises goes through."""
        end = self.ended()
        run = prepare()
        folder = self.folder / str(self._number + 1)
        run = replace(run, log=str(folder / "log"), backoff_s=self._pause_s(end) if end else 0)
        process = Process(folder)
        process.start(run)
        self._previous, self._process = end, process
        self._number += 1
        self.waiting = ("", "")
        for number in run_numbers(self.folder)[:-2]:
            shutil.rmtree(self.folder / str(number))

    def view(self, policy: str, *, ready: bool) -> ContainerView:
        """What the pod's status says of this container."""
        alive = self.alive
        end = None if alive else self.ended()
        waiting, previous = self.waiting, self._previous
        if end is not None and not self.finished(policy):
            # It will run again: Kubernetes shows the end that was as the last state.
            pause_s = self._pause_s(end)
            if pause_s and not waiting[0]:
                message = f"back-off {pause_s:g}s restarting failed container={self.name}"
                waiting = ("CrashLoopBackOff", message)
            previous, end = end, None
        return ContainerView(
            name=self.name,
            image=self.spec.get("image", ""),
            restarts=max(0, self._number),
            waiting=waiting[0],
            message=waiting[1],
            started_at=self._process.started_at[:19] + "Z"
            if alive and self._process and self._process.started_at
            else "",
            ended=end,
            previous=previous,
            ready=ready and alive,
            container_id=f"process://{self.folder.parent.name}/{self.name}/{self._number}" if self._process else "",
        )

    def _pause_s(self, end: Exit) -> float:
        assert self._process is not None
        begun = parse_timestamp(end.started_at or end.finished_at)
        ran_for_s = (parse_timestamp(end.finished_at) - begun).total_seconds()
        return self._backoff.next_s(self._number, self._process.backoff_s, ran_for_s)


def run_numbers(folder: Path) -> list[int]:
    """The runs that a container's folder still holds, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())
