"""The port through which jobs are sent and followed: stated here because controller, uploader and importer share it."""

from typing import Protocol

from dvcr.jobs.job import ImportJob, JobProgress, UploadTicket


class JobBoard(Protocol):
    """Where work is put up and its progress is told. Everything on it may be lost without losing an image."""

    def submit(self, job: ImportJob) -> None:
        """Send the job to the workers and set its progress to Queued, keeping the percentage it had reached."""
        ...

    def progress(self, job_id: str) -> JobProgress | None:
        """The last word on the job; None if it was never sent, forgotten or lost."""
        ...

    def report(self, job_id: str, progress: JobProgress) -> None:
        """Record the worker's word. `percent` never goes back."""
        ...

    def forget(self, job_id: str) -> None:
        """Remove all trace of the job; a running worker notices and stops. Idempotent."""
        ...

    def lease(self, job_id: str, owner: str, ttl_s: float) -> bool:
        """Take or renew the exclusive right to run the job; False while another owner has it."""
        ...

    def release(self, job_id: str, owner: str) -> None:
        """Give the right back, if `owner` has it."""
        ...

    def open_ticket(self, ticket: UploadTicket) -> None:
        """Allow an upload. A ticket that is there already is left as it is."""
        ...

    def ticket(self, token: str) -> UploadTicket | None:
        """The ticket under this token."""
        ...

    def update_ticket(self, ticket: UploadTicket) -> None:
        """Record how far the upload is."""
        ...

    def close_ticket(self, token: str) -> None:
        """Remove the ticket. Idempotent."""
        ...
