"""A JobBoard in memory."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from dvcr.jobs.board import TakenJob
from dvcr.jobs.job import BlobOrigin, ImportJob, JobProgress, JobState, UploadState, UploadTicket


@dataclass
class _Entry:
    """A job that is not finished."""

    job: ImportJob
    place: float
    failures: int = 0
    crashes: int = 0


class MemoryJobBoard:
    """A JobBoard of one process; `submitted` keeps what was sent, in order."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.submitted: list[ImportJob] = []
        self._clock = clock
        self._progress: dict[str, JobProgress] = {}
        self._reached: dict[str, tuple[int, ...]] = {}
        self._entries: dict[str, _Entry] = {}
        self._in_line: set[str] = set()
        self._turns: list[str] = []
        self._owners: dict[str, str] = {}
        self._due: dict[str, float] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self._finished: dict[str, str] = {}
        self._forgotten: set[str] = set()
        self._tickets: dict[str, UploadTicket | None] = {}  # None: closed
        self._lock = threading.RLock()

    def submit(self, job: ImportJob) -> None:
        with self._lock:
            self.submitted.append(job)
            self._line_up_due()
            self._finished.pop(job.id, None)
            self._forgotten.discard(job.id)
            known = self._entries.get(job.id)
            self._entries[job.id] = known or _Entry(job, self._clock() + _handicap_s(job))
            self._entries[job.id].job = job
            if job.id not in self._owners and not (known and job.id in self._due):
                self.report(job.id, JobProgress(state=JobState.QUEUED))
                self._line_up(job.id)

    def progress(self, job_id: str) -> JobProgress | None:
        return self._progress.get(job_id)

    def report(self, job_id: str, progress: JobProgress) -> None:
        """As if a worker had told it."""
        with self._lock:
            reached = self._reached.get(job_id, (0, 0, 0))
            told = (progress.percent, progress.fetched_bytes, progress.converted_bytes)
            reached = self._reached[job_id] = tuple(map(max, zip(reached, told, strict=True)))
            self._progress[job_id] = progress.reached(*reached)
            if progress.state in (JobState.SUCCEEDED, JobState.FAILED):
                self._leave(job_id)
                self._entries.pop(job_id, None)

    def lose(self) -> None:
        """Forget everything about jobs, as a Redis does that was flushed."""
        with self._lock:
            for kept in (
                self._progress,
                self._reached,
                self._entries,
                self._in_line,
                self._turns,
                self._owners,
                self._due,
                self._finished,
            ):
                kept.clear()

    def forget(self, job_id: str) -> None:
        with self._lock:
            self._leave(job_id)
            self._entries.pop(job_id, None)
            self._progress.pop(job_id, None)
            self._reached.pop(job_id, None)
            self._finished.pop(job_id, None)
            self._forgotten.add(job_id)

    def take(self, owner: str, ttl_s: float) -> TakenJob | None:
        with self._lock:
            self._line_up_due()
            if not self._turns:
                return None
            namespace = self._turns.pop(0)
            line = [i for i in self._in_line if self._entries[i].job.namespace == namespace]
            job_id = min(line, key=lambda i: self._entries[i].place)
            self._in_line.remove(job_id)
            if len(line) > 1:
                self._turns.append(namespace)
            self._owners[job_id] = owner
            self._due[job_id] = self._clock() + ttl_s
            entry = self._entries[job_id]
            return TakenJob(entry.job, entry.failures, entry.crashes)

    def renew(self, job_id: str, owner: str, ttl_s: float, progress: JobProgress) -> bool:
        with self._lock:
            if not self._may_speak(job_id, owner):
                return False
            self._leave(job_id)
            self._owners[job_id] = owner
            self._due[job_id] = self._clock() + ttl_s
            self.report(job_id, progress)
            return True

    def postpone(self, job_id: str, owner: str, wait_s: float, progress: JobProgress) -> bool:
        with self._lock:
            if not self._may_speak(job_id, owner):
                return False
            self._leave(job_id)
            if job_id in self._entries:
                self._entries[job_id].failures += 1
            self._due[job_id] = self._clock() + wait_s
            self.report(job_id, progress)
            return True

    def give_back(self, job_id: str, owner: str) -> None:
        with self._lock:
            if self._owners.get(job_id) == owner:
                self._leave(job_id)
                self._line_up(job_id)

    def finish(self, job_id: str, owner: str, progress: JobProgress) -> bool:
        with self._lock:
            if self._finished.get(job_id) == owner:
                return True
            if not self._may_speak(job_id, owner):
                return False
            self.report(job_id, progress)
            self._finished[job_id] = owner
            return True

    def wake(self) -> int:
        with self._lock:
            self._line_up_due()
            return len(self._in_line)

    def unfinished(self) -> int:
        with self._lock:
            self._line_up_due()
            return len(self._in_line) + len(self._due)

    def lease(self, key: str, owner: str, ttl_s: float) -> bool:
        with self._lock:
            holder, until = self._leases.get(key, (owner, 0.0))
            if holder != owner and self._clock() < until:
                return False
            self._leases[key] = (owner, self._clock() + ttl_s)
            return True

    def release(self, key: str, owner: str) -> None:
        with self._lock:
            if self._leases.get(key, ("", 0))[0] == owner:
                del self._leases[key]

    def open_ticket(self, ticket: UploadTicket) -> None:
        with self._lock:
            self._tickets.setdefault(ticket.token, ticket)

    def ticket(self, token: str) -> UploadTicket | None:
        return self._tickets.get(token)

    def update_ticket(self, ticket: UploadTicket, owner: str) -> bool:
        with self._lock:
            holder, until = self._leases.get(ticket.lease_id, (owner, 0.0))
            if holder != owner and self._clock() < until:
                return False
            if ticket.token in self._tickets:
                stored = self._tickets[ticket.token]
                if stored is None or stored.state in (UploadState.COMPLETE, UploadState.FAILED):
                    return False
            self._tickets[ticket.token] = ticket
            return True

    def close_ticket(self, token: str) -> None:
        with self._lock:
            self._tickets[token] = None

    def lose_ticket(self, token: str) -> None:
        """As a Redis that was restarted does."""
        del self._tickets[token]

    def _may_speak(self, job_id: str, owner: str) -> bool:
        over = job_id in self._finished or job_id in self._forgotten
        return not over and self._owners.get(job_id, owner) == owner

    def _line_up(self, job_id: str) -> None:
        if job_id in self._entries:
            self._in_line.add(job_id)
            namespace = self._entries[job_id].job.namespace
            if namespace not in self._turns:
                self._turns.append(namespace)

    def _leave(self, job_id: str) -> None:
        self._owners.pop(job_id, None)
        self._due.pop(job_id, None)
        self._in_line.discard(job_id)
        lines = {self._entries[i].job.namespace for i in self._in_line}
        self._turns = [namespace for namespace in self._turns if namespace in lines]

    def _line_up_due(self) -> None:
        for job_id in [i for i, at in sorted(self._due.items(), key=lambda item: item[1]) if at <= self._clock()]:
            if job_id in self._owners and job_id in self._entries:
                self._entries[job_id].crashes += 1
            self._leave(job_id)
            self._line_up(job_id)


def _handicap_s(job: ImportJob) -> float:
    return min(job.origin.size_bytes / 100e6, 600) if isinstance(job.origin, BlobOrigin) else 60
