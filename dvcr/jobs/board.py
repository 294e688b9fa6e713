"""The port through which jobs are sent, taken and followed: stated here because controller, uploader and importer share
it.
"""

from dataclasses import dataclass
from typing import Protocol

from dvcr.jobs.job import ImportJob, JobProgress, UploadTicket


@dataclass(frozen=True)
class TakenJob:
    """A job that a worker has the exclusive right to run, and what became of the former tries."""

    job: ImportJob
    failures: int
    """How often it was postponed since it was submitted."""
    crashes: int
    """How often a lease on it ended without a word since it was submitted."""


class JobBoard(Protocol):
    """Where work is put up and its progress is told. Everything on it may be lost without losing an image.

    A job is in line, or leased by one worker, or postponed; after `finish` only its progress is left. A lease ends by
    itself unless it is renewed, and the job goes back to its place in the line.
    """

    def submit(self, job: ImportJob) -> None:
        """Put the job in line and wake a worker. Idempotent: a job that is there already keeps its place, its lease and
        its counts; one that was finished or forgotten begins anew, but for the percentage that a finished one reached.
        """
        ...

    def progress(self, job_id: str) -> JobProgress | None:
        """The last word on the job; None if it was never sent, forgotten or lost."""
        ...

    def forget(self, job_id: str) -> None:
        """Remove all trace of the job; a running worker notices and stops. Idempotent."""
        ...

    def take(self, owner: str, ttl_s: float) -> TakenJob | None:
        """Lease the next job to `owner`, in one step; None if none is in line.

        Namespaces take turns. Within one, the job goes first that was submitted first, but small ones earlier: a job
        counts as having come later by the time that fetching it takes at 100 MB/s, which is ten minutes at most, and
        one where its size is not known.
        """
        ...

    def renew(self, job_id: str, owner: str, ttl_s: float, progress: JobProgress) -> bool:
        """Keep the lease and tell the progress, whose `percent` never goes back. False, and nothing told, once the job
        was finished or forgotten, or another owner has it. A job that the board lost altogether comes to life again.
        """
        ...

    def postpone(self, job_id: str, owner: str, wait_s: float, progress: JobProgress) -> bool:
        """Give the lease back for another attempt after `wait_s`. False as for `renew`."""
        ...

    def give_back(self, job_id: str, owner: str) -> None:
        """Give the lease back for another worker to take the job at once; nothing if `owner` does not have it."""
        ...

    def finish(self, job_id: str, owner: str, progress: JobProgress) -> bool:
        """Record the last word. False as for `renew`; idempotent for who finished it."""
        ...

    def wake(self) -> int:
        """Put jobs in line whose lease or wait has ended, and wake workers where fewer are called than jobs are in
        line; how many are. Some worker must call this again and again.
        """
        ...

    def unfinished(self) -> int:
        """How many jobs are in line, leased or postponed: what workers are needed for."""
        ...

    def lease(self, key: str, owner: str, ttl_s: float) -> bool:
        """Take or renew an exclusive right to something else than a job; False while another owner has it."""
        ...

    def release(self, key: str, owner: str) -> None:
        """Give the right back, if `owner` has it."""
        ...

    def open_ticket(self, ticket: UploadTicket) -> None:
        """Allow an upload. A ticket that is there already is left as it is, and a closed one stays closed."""
        ...

    def ticket(self, token: str) -> UploadTicket | None:
        """The ticket under this token; None if it was never opened, closed or lost."""
        ...

    def update_ticket(self, ticket: UploadTicket, owner: str) -> bool:
        """Record how far the upload is, also if the ticket was lost. False, and nothing recorded, where another than
        `owner` has leased its `lease_id`, or the upload is complete, failed or closed: that it stays.
        """
        ...

    def close_ticket(self, token: str) -> None:
        """Remove the ticket for good. Idempotent."""
        ...
