"""One import job, from a worker's lease on it to its last word."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import structlog

from converter.inspect import ImageInfo
from dvcr.artifact.image import DiskImage
from dvcr.artifact.store import remove
from dvcr.client.cancellation import Cancellation, RequestCancelledError
from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Repository
from dvcr.config import ImporterSettings
from dvcr.digest import Digest
from dvcr.errors import DvcrError, NoSpaceError, RegistryError
from dvcr.jobs.board import JobBoard, TakenJob
from dvcr.jobs.job import BlobOrigin, ImportJob, ImportStage, JobProgress, JobState
from importer.disk_copy import DiskCopy
from importer.heartbeat import ForgottenError, Heartbeat
from importer.kept import discard
from importer.pipeline import ImportWatch, TakenOverError, import_disk
from importer.progress import ProgressMeter
from importer.recall import ChunkIndex
from importer.sources.opening import describe, open_source
from importer.sources.source import ImportSource

_LONGEST_WAIT_S = 300.0
_TELL_FOR_S = 60.0
_TELL_EVERY_S = 1.0
_REMOVAL_S = 5.0
_SILENT_S = 5.0
log = structlog.get_logger(__name__)


def run_import(
    taken: TakenJob,
    owner: str,
    board: JobBoard,
    client: RegistryClient,
    settings: ImporterSettings,
    index: ChunkIndex | None = None,
) -> None:
    """Run a job that `owner` has taken from the board. Idempotent by job id, and by the tag in the registry.

    What goes wrong is told on the board, never raised: a cause that may go away postpones the job, up to
    `importer.attempts`; everything else ends it. Raises DvcrError only where Redis did not answer for a minute.
    """
    job = taken.job
    run = _Run(index, last_attempt=taken.failures + 1 >= settings.attempts)
    keep = False
    try:
        _check_crashes(taken, settings)
        run.make(job, board, client, settings, owner)
    except (ForgottenError, TakenOverError) as stopped:
        log.info("import stopped", job=job.id, why=stopped.message)
        if isinstance(stopped, ForgottenError):
            _remove_unwanted(job, client)
    except DvcrError as error:
        log.warning("import failed", job=job.id, reason=error.reason, error=error.message)
        # What was fetched serves another attempt, which also follows where Redis does not hear of this one's end. What
        # filled the filesystem does not.
        keep = not isinstance(error, NoSpaceError)
        if _tell_failure(taken, owner, board, settings, run, error):
            keep = False
    except Exception as error:
        log.exception("import failed unexpectedly", job=job.id)
        message = f"the importer failed unexpectedly ({type(error).__name__}: {error}); this is a bug, see its log"
        _tell(lambda: board.finish(job.id, owner, run.failed(DvcrError(message))))
    else:
        if not _tell(lambda: board.finish(job.id, owner, run.succeeded())) and board.progress(job.id) is None:
            _remove_unwanted(job, client)
    finally:
        # Last: it may take the file system a second to free what was fetched, and nobody needs to wait for that.
        run.close()
        if not keep:
            discard(settings.scratch_dir, job.id)


def _check_crashes(taken: TakenJob, settings: ImporterSettings) -> None:
    if taken.crashes >= settings.max_crashes:
        message = (
            f"the worker died {taken.crashes} times while it ran this import, without a word: killed for its use of "
            "memory, perhaps. Look at the workers' logs and limits, then create the resource again"
        )
        raise DvcrError(message, reason="WorkerCrashed")


def _tell_failure(
    taken: TakenJob, owner: str, board: JobBoard, settings: ImporterSettings, run: "_Run", error: DvcrError
) -> bool:
    """Tell the error; whether it ends the job."""
    job_id, attempt = taken.job.id, taken.failures + 1
    if not error.retryable or attempt >= settings.attempts:
        _tell(lambda: board.finish(job_id, owner, run.failed(error)))
        return True
    wait_s = min(settings.retry_wait_s * 2 ** (attempt - 1), _LONGEST_WAIT_S)
    retry_at = datetime.now(UTC) + timedelta(seconds=wait_s)
    message = (
        f"attempt {attempt} of {settings.attempts} failed, the next one is at {retry_at:%H:%M:%S} UTC: {error.message}"
    )
    waiting = run.stopped({"state": JobState.WAITING, "reason": error.reason, "message": message, "retry_at": retry_at})
    _tell(lambda: board.postpone(job_id, owner, wait_s, waiting))
    return False


def _tell(speak: Callable[[], bool]) -> bool:
    """Say it until Redis hears it; for a minute, then the lease has ended and another worker finds out by itself."""
    deadline = time.monotonic() + _TELL_FOR_S
    while True:
        try:
            return speak()
        except DvcrError as error:
            if not error.retryable or time.monotonic() > deadline:
                raise
            log.warning("the end of an import cannot be told yet", error=error.message)
            time.sleep(_TELL_EVERY_S)


class _Run(ImportWatch):
    """The state of one run."""

    def __init__(self, index: ChunkIndex | None, *, last_attempt: bool) -> None:
        self._last_attempt = last_attempt
        self._meter = ProgressMeter(time.monotonic)
        self._index = index
        self._source: ImportSource | DiskCopy | None = None
        self._heartbeat: Heartbeat | None = None
        self._stage = ImportStage.FETCHING
        self._virtual_size_bytes = 0
        self._converted_bytes = 0
        self._cancellation = Cancellation()
        self._publishing = False
        self._opening_since: float | None = None
        self._trouble, self._trouble_at = "", (0, 0)

    def make(
        self, job: ImportJob, board: JobBoard, client: RegistryClient, settings: ImporterSettings, owner: str
    ) -> None:
        """Import, or find that it was done already; then remove what was uploaded for it."""
        ours = client.on_behalf_of(self._cancellation, self._registry_trouble)
        try:
            repository = ours.repository(job.repository)
        except ValueError as exc:
            raise DvcrError(str(exc), reason="InvalidRepository") from exc
        try:
            with Heartbeat(
                board,
                job.id,
                owner,
                lease_s=settings.lease_s,
                progress=self.running,
                on_lost=self._stop,
            ) as self._heartbeat:
                try:
                    if not _exists(repository, job.tag):
                        self._import(job, ours, repository, settings)
                except DvcrError:
                    self._check()  # an import that was stopped fails in many ways; this is the true one
                    raise
        except TakenOverError:
            raise
        except DvcrError as error:
            if not error.retryable:
                _remove_upload(job, client, and_again=False)
            raise
        _remove_upload(job, client, and_again=not self._last_attempt)

    def _import(
        self, job: ImportJob, client: RegistryClient, repository: Repository, settings: ImporterSettings
    ) -> DiskImage:
        self._opening_since = time.monotonic()
        self._source = source = open_source(
            job.origin,
            job.checksums,
            client,
            settings,
            job_id=job.id,
            cancellation=self._cancellation,
            on_retry=self._registry_trouble,
        )
        return import_disk(
            source,
            repository,
            ("latest", job.tag),  # the job's own tag last: it means that all is done
            origin=describe(job.origin),
            checksums=job.checksums,
            settings=settings,
            watch=self,
            index=self._index,
        )

    def inspected(self, info: ImageInfo) -> None:
        self._virtual_size_bytes = info.virtual_size_bytes

    def entered(self, stage: ImportStage) -> None:
        self._stage = stage
        self._check()

    def copying(self, virtual_size_bytes: int) -> None:
        self._virtual_size_bytes = virtual_size_bytes

    def converted(self, size_bytes: int) -> None:
        self._converted_bytes = size_bytes
        self._check()

    def before_publishing(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.confirm()
        self._publishing = True

    def running(self) -> JobProgress:
        """How far it is now, and what it waits for."""
        return self._meter.progress(
            fetched_bytes=self._source.fetched_bytes if self._source else 0,
            total_bytes=self._source.total_bytes if self._source else None,
            converted_bytes=self._converted_bytes,
            virtual_size_bytes=self._virtual_size_bytes,
            stage=self._stage,
        ).model_copy(update={"message": self._waits_for()})

    def succeeded(self) -> JobProgress:
        """The last word on a success."""
        told = {"state": JobState.SUCCEEDED, "percent": 100, "message": ""}
        return self.stopped({**told, "finished_at": datetime.now(UTC)})

    def failed(self, error: DvcrError) -> JobProgress:
        """The last word on a failure."""
        told = {"reason": error.reason, "message": error.message, "retryable": error.retryable}
        return self.stopped({"state": JobState.FAILED, "finished_at": datetime.now(UTC), **told})

    def stopped(self, update: dict[str, object]) -> JobProgress:
        """How far it came, and what became of it."""
        return self.running().model_copy(update={"current_speed": 0, **update})

    def close(self) -> None:
        """Free what was fetched."""
        if self._source is not None:
            self._source.close()

    def _check(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.check()

    def _stop(self) -> None:
        if self._publishing:
            # A request that is let go of may still be carried out; only when it is over can its image be removed.
            _later(_REMOVAL_S, self._cancellation.cancel)
        else:
            self._cancellation.cancel()

    def _registry_trouble(self, trouble: str) -> None:
        self._trouble, self._trouble_at = trouble, self._moved()

    def _waits_for(self) -> str:
        """What the source waits for, or what a registry is asked again for since something moved last."""
        if self._source is not None and self._source.trouble:
            return self._source.trouble
        trouble = self._trouble if self._moved() == self._trouble_at else ""
        if self._source is None and self._opening_since is not None:
            silent_s = time.monotonic() - self._opening_since
            if silent_s >= _SILENT_S:
                trouble = ": ".join(filter(None, (f"no answer from the source for {silent_s:.0f} s", trouble)))
        return trouble

    def _moved(self) -> tuple[int, int]:
        return self._source.fetched_bytes if self._source else 0, self._converted_bytes


def _exists(repository: Repository, tag: str) -> bool:
    try:
        repository.manifest(tag)
    except RegistryError as error:
        if error.status == 404:
            return False
        raise
    return True


def _remove_unwanted(job: ImportJob, client: RegistryClient) -> None:
    """The resource was deleted while its image was being published."""
    try:
        with _for_a_moment(client) as soon:
            repository = soon.repository(job.repository)
            remove(repository, repository.manifest(job.tag).digest)
        log.info("removed an image that nobody wants any more", job=job.id)
    except (RegistryError, RequestCancelledError) as error:
        if not isinstance(error, RegistryError) or error.status != 404:
            log.warning("an image that nobody wants any more stays", job=job.id, error=error.message)


def _remove_upload(job: ImportJob, client: RegistryClient, *, and_again: bool) -> None:
    """Remove what was uploaded, but for a part that the image came to need as a chunk.

    DvcrError, retryable, where that fails and is to be tried again by the next attempt, which finds the image made.
    """
    if not isinstance(job.origin, BlobOrigin):
        return
    try:
        with _for_a_moment(client) as soon:
            remove(soon.repository(job.origin.repository), Digest.parse(job.origin.digest))
    except (RegistryError, RequestCancelledError) as error:
        message = f"the uploaded file cannot be removed from the registry: {error.message}"
        if and_again:
            raise DvcrError(message, reason=RegistryError.default_reason, retryable=True) from error
        # The job's own end is what counts; the rest goes with its resource.
        log.warning("an uploaded file stays", job=job.id, error=message)


@contextmanager
def _for_a_moment(client: RegistryClient) -> Iterator[RegistryClient]:
    """The registry, for what is worth some seconds and no more: the worker has other jobs."""
    cancellation = Cancellation()
    end = _later(_REMOVAL_S, cancellation.cancel)
    try:
        yield client.on_behalf_of(cancellation)
    finally:
        end.cancel()


def _later(wait_s: float, call: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(wait_s, call)
    timer.daemon = True
    timer.start()
    return timer
