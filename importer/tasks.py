"""One import job, from the board's message to its last word."""

import os
import secrets
import socket
import time
from datetime import UTC, datetime
from enum import Enum

import structlog

from converter.inspect import ImageInfo
from dvcr.artifact.image import DiskImage
from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.config import ImporterSettings
from dvcr.digest import Digest
from dvcr.errors import DvcrError, RegistryError
from dvcr.jobs.board import JobBoard
from dvcr.jobs.job import BlobOrigin, ImportJob, JobProgress, JobState
from importer.heartbeat import ForgottenError, Heartbeat
from importer.kept import discard
from importer.pipeline import ImportWatch, TakenOverError, import_disk
from importer.progress import ProgressMeter
from importer.sources.opening import describe, open_source
from importer.sources.source import ImportSource

log = structlog.get_logger(__name__)


class Outcome(Enum):
    """What became of a delivery."""

    DONE = "done"
    """The job succeeded, failed, or is not wanted: nothing is left to do."""
    BUSY = "busy"
    """Another worker has it: look again later, in case that one dies."""


def run_import(job: ImportJob, board: JobBoard, client: RegistryClient, settings: ImporterSettings) -> Outcome:
    """Run the job unless it is done, forgotten or being run. Idempotent by job id, and by the tag in the registry.

    What goes wrong is told on the board, never raised; but for a board that cannot be reached.
    """
    known = board.progress(job.id)
    if known is None or known.state in (JobState.SUCCEEDED, JobState.FAILED):
        discard(settings.scratch_dir, job.id)
        log.info("nothing to do for job", job=job.id, state=known and known.state.value)
        return Outcome.DONE
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    if not board.lease(job.id, owner, settings.lease_s):
        log.info("job is being run by another worker", job=job.id)
        return Outcome.BUSY
    try:
        _run(job, board, client, settings, owner)
    finally:
        board.release(job.id, owner)
    return Outcome.DONE


def _run(job: ImportJob, board: JobBoard, client: RegistryClient, settings: ImporterSettings, owner: str) -> None:
    started_at = datetime.now(UTC)
    run = _Run(started_at)
    try:
        run.make(job, board, client, settings, owner)
    except (ForgottenError, TakenOverError) as stopped:
        log.info("import stopped", job=job.id, why=stopped.message)
        return
    except DvcrError as error:
        log.warning("import failed", job=job.id, reason=error.reason, error=error.message)
        board.report(job.id, run.failed(error.reason, error.message))
    except Exception as error:
        log.exception("import failed unexpectedly", job=job.id)
        message = f"the importer failed unexpectedly ({type(error).__name__}: {error}); this is a bug, see its log"
        board.report(job.id, run.failed(DvcrError.default_reason, message))
    else:
        board.report(job.id, run.succeeded())
    finally:
        # Last: it may take the file system a second to free what was fetched, and nobody needs to wait for that.
        run.close()


class _Run(ImportWatch):
    """The state of one run."""

    def __init__(self, started_at: datetime) -> None:
        self._meter = ProgressMeter(time.monotonic)
        self._started_at = started_at
        self._source: ImportSource | None = None
        self._heartbeat: Heartbeat | None = None
        self._virtual_size_bytes = 0
        self._converted_bytes = 0

    def make(
        self, job: ImportJob, board: JobBoard, client: RegistryClient, settings: ImporterSettings, owner: str
    ) -> None:
        """Import, or find that it was done already; then remove what was uploaded for it."""
        try:
            repository = client.repository(job.repository)
        except ValueError as exc:
            raise DvcrError(str(exc), reason="InvalidRepository") from exc
        try:
            with Heartbeat(
                board, job.id, owner, lease_s=settings.lease_s, progress=self.running, on_lost=self._abort
            ) as self._heartbeat:
                if _exists(repository, job.tag):
                    return  # what was uploaded for it went with the first run
                image = self._import(job, client, repository, settings)
        except TakenOverError:
            raise
        except DvcrError as error:
            if not error.retryable:
                _remove_upload(job, client, None)
            raise
        _remove_upload(job, client, image)

    def _import(
        self, job: ImportJob, client: RegistryClient, repository: Repository, settings: ImporterSettings
    ) -> DiskImage:
        self._source = source = open_source(job.origin, job.checksums, client, settings, job_id=job.id)
        try:
            return import_disk(
                source,
                repository,
                ("latest", job.tag),  # the job's own tag last: it means that all is done
                origin=describe(job.origin),
                checksums=job.checksums,
                max_virtual_size_bytes=settings.max_virtual_size_bytes,
                watch=self,
            )
        except DvcrError:
            self.before_publishing()  # an import that was stopped fails in many ways; this is the true one
            raise

    def inspected(self, info: ImageInfo) -> None:
        self._virtual_size_bytes = info.virtual_size_bytes

    def converted(self, size_bytes: int) -> None:
        self._converted_bytes = size_bytes
        self.before_publishing()

    def before_publishing(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.check()

    def running(self) -> JobProgress:
        """How far it is now."""
        return self._meter.progress(
            fetched_bytes=self._source.fetched_bytes if self._source else 0,
            total_bytes=self._source.total_bytes if self._source else None,
            converted_bytes=self._converted_bytes,
            virtual_size_bytes=self._virtual_size_bytes,
        )

    def succeeded(self) -> JobProgress:
        """The last word on a success."""
        return self.running().model_copy(
            update={"state": JobState.SUCCEEDED, "percent": 100, "current_speed": 0, "finished_at": datetime.now(UTC)}
        )

    def failed(self, reason: str, message: str) -> JobProgress:
        """The last word on a failure."""
        update = {"state": JobState.FAILED, "reason": reason, "message": message, "finished_at": datetime.now(UTC)}
        return self.running().model_copy(update={**update, "current_speed": 0})

    def close(self) -> None:
        """Free what was fetched."""
        if self._source is not None:
            self._source.close()

    def _abort(self) -> None:
        if self._source is not None:
            self._source.abort()


def _exists(repository: Repository, tag: str) -> bool:
    try:
        repository.manifest(tag)
    except RegistryError as error:
        if error.status == 404:
            return False
        raise
    return True


def _remove_upload(job: ImportJob, client: RegistryClient, image: DiskImage | None) -> None:
    """Remove the uploaded blob, unless the image came to need the very same bytes as a chunk."""
    if not isinstance(job.origin, BlobOrigin):
        return
    digest = Digest.parse(job.origin.digest)
    if image is not None and any(chunk.descriptor.digest == digest for chunk in image.chunks):
        return
    try:
        client.repository(job.origin.repository).delete_blob(digest)
    except RegistryError as error:
        # The job's own end is what counts; garbage collection takes what nothing refers to.
        log.warning("an uploaded file stays until garbage collection", job=job.id, error=error.message)
