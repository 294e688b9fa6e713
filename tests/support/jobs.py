"""A JobBoard in memory."""

import threading
import time
from collections.abc import Callable

from dvcr.jobs.job import ImportJob, JobProgress, JobState, UploadTicket


class MemoryJobBoard:
    """A JobBoard of one process; `submitted` keeps what was sent, in order."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.submitted: list[ImportJob] = []
        self._clock = clock
        self._progress: dict[str, JobProgress] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self._forgotten: set[str] = set()
        self._tickets: dict[str, UploadTicket] = {}
        self._lock = threading.RLock()

    def submit(self, job: ImportJob) -> None:
        with self._lock:
            self._forgotten.discard(job.id)
            self._record(job.id, JobProgress(state=JobState.QUEUED))
            self.submitted.append(job)

    def progress(self, job_id: str) -> JobProgress | None:
        return self._progress.get(job_id)

    def report(self, job_id: str, progress: JobProgress) -> None:
        with self._lock:
            if job_id not in self._forgotten:
                self._record(job_id, progress)

    def forget(self, job_id: str) -> None:
        with self._lock:
            self._forgotten.add(job_id)
            self._progress.pop(job_id, None)
            self._leases.pop(job_id, None)

    def lease(self, job_id: str, owner: str, ttl_s: float) -> bool:
        with self._lock:
            holder, until = self._leases.get(job_id, (owner, 0.0))
            if job_id in self._forgotten or (holder != owner and self._clock() < until):
                return False
            self._leases[job_id] = (owner, self._clock() + ttl_s)
            return True

    def release(self, job_id: str, owner: str) -> None:
        with self._lock:
            if self._leases.get(job_id, ("", 0))[0] == owner:
                del self._leases[job_id]

    def open_ticket(self, ticket: UploadTicket) -> None:
        with self._lock:
            self._tickets.setdefault(ticket.token, ticket)

    def ticket(self, token: str) -> UploadTicket | None:
        return self._tickets.get(token)

    def update_ticket(self, ticket: UploadTicket) -> None:
        with self._lock:
            if ticket.token in self._tickets:
                self._tickets[ticket.token] = ticket

    def close_ticket(self, token: str) -> None:
        with self._lock:
            self._tickets.pop(token, None)

    def _record(self, job_id: str, progress: JobProgress) -> None:
        former = self._progress.get(job_id)
        percent = max(progress.percent, former.percent if former else 0)
        self._progress[job_id] = progress.model_copy(update={"percent": percent})
