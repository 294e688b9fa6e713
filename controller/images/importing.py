"""The steps by which the bytes of a source become an artifact; images and disks share them.

The registry decides whether an import is done. Jobs and tickets may get lost: they are sent and opened again.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from controller.api.data_source import DataSource, SourceType
from controller.api.image import DownloadSpeed, ImportStatus, Target, UploadUrls
from controller.api.quantity import human_bytes
from controller.images.existing import NotThere
from controller.images.origins import Origins
from controller.images.registry import Artifact, ImageRegistry
from controller.runtime.conditions import Clock, find_condition, read_time
from controller.runtime.index import Identity
from dvcr.artifact.staged import Part
from dvcr.config import UploaderSettings
from dvcr.digest import Digest
from dvcr.jobs.board import JobBoard
from dvcr.jobs.job import BlobOrigin, ImportJob, ImportStage, JobProgress, JobState, Origin, UploadState, UploadTicket

FindOrigin = Callable[[], Origin | NotThere]

READY = "Ready"
WAITING_FOR_UPLOAD = "WaitForUserUpload"
_POLL_S = 1.0
_QUEUE_POLL_S = 10.0
"""How often a job is looked at at least that has been in line for twice as long."""
_STALE_AFTER = timedelta(seconds=60)
"""A worker that runs a job reports more often than this."""
_QUEUE_LOST_AFTER = timedelta(minutes=10)
"""A job that waits longer may have been lost; sending it twice does no harm."""
_STAGES = {
    None: "a worker has taken the import",
    ImportStage.FETCHING: "a worker fetches the image",
    ImportStage.CONVERTING: "a worker fetches and converts the image",
    ImportStage.STORING: "a worker stores the last of the image",
    ImportStage.VERIFYING: "a worker fetches what is left and checks the image",
}

_TICKET_LEASE_S = 15.0


class ImportState(StrEnum):
    WAITING = "Waiting"
    WAIT_FOR_UPLOAD = "WaitForUpload"
    RUNNING = "Running"
    FAILED = "Failed"
    DONE = "Done"


@dataclass(frozen=True)
class ImportOutcome:
    """How far an import is."""

    state: ImportState
    reason: str
    message: str
    image: Artifact | None = None
    again_s: float | None = _POLL_S


@dataclass(frozen=True)
class ImportTarget:
    """The artifact that is to exist."""

    repository: str
    uid: str
    namespace: str = ""
    """Of the resource; imports of different ones take turns."""
    share_percent: int = 100
    """How much of what the resource's progress tells is the import."""

    def progress(self, percent: int) -> int:
        """The progress of the resource when so much of the import is done."""
        return percent * self.share_percent // 100


class ImageImport:
    """Brings imports forward, one look at a time."""

    def __init__(
        self,
        board: JobBoard,
        registry: ImageRegistry,
        origins: Origins,
        uploader: UploaderSettings,
        clock: Clock,
        *,
        retry_failed_s: float,
    ) -> None:
        self._board = board
        self._registry = registry
        self._origins = origins
        self._uploader = uploader
        self._clock = clock
        self._retry_failed = timedelta(seconds=retry_failed_s)

    def advance(self, target: ImportTarget, source: DataSource, status: ImportStatus, owner: Identity) -> ImportOutcome:
        """Do what is next for the artifact, and tell in `status` how far it is.

        `source` belongs to `owner`, whose pass is under way.
        """

        def find_origin() -> Origin | NotThere:
            return self._origins.find(source, owner)

        # The registry is only asked where it may know more than the board: thousands may come at once and wait in line.
        progress = self._board.progress(target.uid)
        is_new = progress is None and status.progress is None
        if not is_new and not self._is_under_way(progress) and (done := self.done(target, status)) is not None:
            return done
        if source.type == SourceType.UPLOAD:
            return self._follow_upload(target, source, status, progress)
        return self._follow_job(target, find_origin, source, status, progress)

    def done(self, target: ImportTarget, status: ImportStatus) -> ImportOutcome | None:
        """The outcome, told in `status`, where the artifact exists."""
        image = self._registry.find(target.repository, target.uid)
        if image is None:
            return None
        self._tell_done(target, image, status)
        return ImportOutcome(ImportState.DONE, READY, "the image is in the registry", image, None)

    def find(self, target: ImportTarget) -> Artifact | None:
        """The artifact, if it exists."""
        return self._registry.find(target.repository, target.uid)

    def forget(self, target: ImportTarget, status: ImportStatus) -> None:
        """Undo all of it: the job, the ticket with what was uploaded, the artifact. Idempotent."""
        self._board.forget(target.uid)
        token = _token(status)
        if token:
            ticket = self._board.ticket(token)
            self._board.close_ticket(token)
            self._registry.remove_upload(target.repository, ticket.parts if ticket else ())
        self._registry.remove(target.repository, target.uid)

    def _follow_job(
        self,
        target: ImportTarget,
        find_origin: FindOrigin,
        source: DataSource,
        status: ImportStatus,
        progress: JobProgress | None,
    ) -> ImportOutcome:
        if progress is None or self._is_due(progress):
            origin = find_origin()
            if isinstance(origin, NotThere):
                return ImportOutcome(ImportState.WAITING, origin.reason, origin.message, again_s=origin.again_s)
            job = ImportJob(
                id=target.uid,
                namespace=target.namespace,
                repository=target.repository,
                tag=target.uid,
                origin=origin,
                checksums=source.checksums,
            )
            self._board.submit(job)
            advance_progress(status, target.progress(progress.percent) if progress else 0)
            return ImportOutcome(ImportState.RUNNING, "ImportQueued", "the import waits for a worker")
        if progress.state is JobState.FAILED:
            return self._failed(progress)
        advance_progress(status, target.progress(progress.percent))
        if progress.state is JobState.QUEUED:
            waited_s = (self._clock() - progress.updated_at).total_seconds()
            again_s = min(max(_POLL_S, waited_s / 2), _QUEUE_POLL_S)
            return ImportOutcome(ImportState.RUNNING, "ImportQueued", "the import waits for a worker", again_s=again_s)
        if progress.state is JobState.WAITING:
            status.download_speed = None
            return ImportOutcome(ImportState.RUNNING, progress.reason, progress.message)
        status.download_speed = _speed(progress.average_speed, progress.current_speed)
        message = "; ".join(filter(None, (_STAGES[progress.stage], progress.message)))
        return ImportOutcome(ImportState.RUNNING, "Importing", message)

    def _is_under_way(self, progress: JobProgress | None) -> bool:
        """Whether a worker has the job, or will, so that there is no artifact yet, or nobody was told of it."""
        ended = (JobState.SUCCEEDED, JobState.FAILED)
        return progress is not None and progress.state not in ended and not self._is_due(progress)

    def _is_due(self, progress: JobProgress) -> bool:
        """Whether the job is to be sent again: it seems lost, or failed a while ago for a cause that may be gone."""
        now = self._clock()
        match progress.state:
            case JobState.FAILED:
                return progress.retryable and now >= self._retry_at(progress)
            case JobState.QUEUED:
                return now > progress.updated_at + _QUEUE_LOST_AFTER
            case JobState.WAITING:
                return now > (progress.retry_at or progress.updated_at) + _QUEUE_LOST_AFTER
            case _:
                # Succeeded, yet the registry has no artifact: it was lost since, or is not visible yet.
                return now > progress.updated_at + _STALE_AFTER

    def _retry_at(self, progress: JobProgress) -> datetime:
        return (progress.finished_at or progress.updated_at) + self._retry_failed

    def _failed(self, progress: JobProgress) -> ImportOutcome:
        if not progress.retryable:
            return ImportOutcome(ImportState.FAILED, progress.reason, progress.message, again_s=None)
        at = self._retry_at(progress)
        message = f"{progress.message}; the import starts anew at {at:%Y-%m-%d %H:%M:%S} UTC"
        again_s = (at - self._clock()).total_seconds()
        return ImportOutcome(ImportState.FAILED, progress.reason, message, again_s=max(again_s, _POLL_S))

    def _follow_upload(
        self, target: ImportTarget, source: DataSource, status: ImportStatus, progress: JobProgress | None
    ) -> ImportOutcome:
        ticket = self._open_ticket(target, source, status)
        if ticket.state is UploadState.COMPLETE:
            origin = BlobOrigin(
                repository=ticket.repository,
                digest=ticket.digest,
                size_bytes=ticket.received_bytes,
                verified=ticket.verified,
            )
            return self._follow_job(target, lambda: origin, source, status, progress)
        if ticket.state is UploadState.FAILED:
            return ImportOutcome(ImportState.FAILED, ticket.reason, ticket.message, again_s=None)
        idle = timedelta(seconds=self._uploader.idle_timeout_s)
        if ticket.state is UploadState.RECEIVING and not ticket.dead_at(self._clock(), idle):
            percent = 100 * ticket.received_bytes // ticket.total_bytes if ticket.total_bytes else 0
            advance_progress(status, target.progress(percent) // 2)
            return ImportOutcome(ImportState.RUNNING, "Uploading", f"{human_bytes(ticket.received_bytes)} received")
        if self._clock() >= ticket.expires_at:
            return self._end_upload(ticket)
        if ticket.state is UploadState.RECEIVING or ticket.received_bytes:
            message = (
                f"the upload stopped after {human_bytes(ticket.offset_bytes)} ({ticket.message or 'no more came'}); "
                f"go on from byte {ticket.offset_bytes} at the same address before {ticket.expires_at:%H:%M:%S} UTC"
            )
            return ImportOutcome(ImportState.WAIT_FOR_UPLOAD, "UploadInterrupted", message)
        message = "upload the image with the command in status.uploadCommand"
        return ImportOutcome(ImportState.WAIT_FOR_UPLOAD, WAITING_FOR_UPLOAD, message)

    def _end_upload(self, ticket: UploadTicket) -> ImportOutcome:
        """Fail an upload that came too late, unless somebody is writing it just now."""
        owner = secrets.token_hex(8)
        if not self._board.lease(ticket.lease_id, owner, _TICKET_LEASE_S):
            return ImportOutcome(ImportState.RUNNING, "Uploading", f"{human_bytes(ticket.received_bytes)} received")
        if ticket.received_bytes or ticket.state is UploadState.RECEIVING:
            why = f"the upload stopped after {human_bytes(ticket.offset_bytes)} and did not go on in time"
        else:
            minutes = round(self._uploader.first_byte_timeout_s / 60)
            why = f"no upload began within {minutes} minutes"
        message = f"{why}; delete the resource and create it again"
        failed = {"state": UploadState.FAILED, "reason": "UploadTimeout", "message": message, "parts": ()}
        ended = self._board.update_ticket(ticket.model_copy(update=failed), owner)
        self._board.release(ticket.lease_id, owner)
        if not ended:
            return ImportOutcome(ImportState.RUNNING, "Uploading", "the upload has just ended")
        self._registry.remove_upload(ticket.repository, ticket.parts)
        return ImportOutcome(ImportState.FAILED, "UploadTimeout", message, again_s=None)

    def _open_ticket(self, target: ImportTarget, source: DataSource, status: ImportStatus) -> UploadTicket:
        token = _token(status)
        ticket = self._board.ticket(token) if token else None
        if ticket is not None:
            return ticket
        # A board that lost the ticket may have lost it after the file was here.
        found = self._registry.find_upload(target.repository) if token else None
        token = token or secrets.token_urlsafe(32)
        ticket = UploadTicket(
            token=token,
            repository=target.repository,
            checksums=source.checksums,
            expires_at=self._upload_deadline(status),
        )
        if found is not None:
            ticket = _received(ticket, *found)
        self._board.open_ticket(ticket)
        external = f"{self._uploader.external_url.rstrip('/')}/upload/{token}"
        in_cluster = f"{self._uploader.in_cluster_url.rstrip('/')}/upload/{token}"
        status.upload_command = f"curl {external} -T example.iso"
        status.image_upload_urls = UploadUrls(external=external, in_cluster=in_cluster)
        return ticket

    def _upload_deadline(self, status: ImportStatus) -> datetime:
        waiting = find_condition(status.conditions, READY)
        since = self._clock()
        if waiting is not None and waiting.reason == WAITING_FOR_UPLOAD:
            since = read_time(waiting.last_transition_time)
        return since + timedelta(seconds=self._uploader.first_byte_timeout_s)

    def _tell_done(self, target: ImportTarget, image: Artifact, status: ImportStatus) -> None:
        if target.share_percent == 100:
            status.progress = "100%"
        else:
            advance_progress(status, target.share_percent)
        status.failure_reason = status.failure_message = None
        if status.target is None or status.target.registry_url is None:
            claim = status.target.persistent_volume_claim_name if status.target else None
            url = f"{self._registry.host}/{target.repository}:{target.uid}"
            status.target = Target(registry_url=url, persistent_volume_claim_name=claim)
        progress = self._board.progress(target.uid)
        if progress is not None and progress.started_at and progress.finished_at:
            status.import_duration = _duration(progress.finished_at - progress.started_at)
            status.download_speed = _speed(progress.average_speed, None)
        token = _token(status)
        if token:
            self._board.close_ticket(token)
            status.upload_command = status.image_upload_urls = None


def _received(ticket: UploadTicket, manifest: Digest, parts: tuple[Part, ...]) -> UploadTicket:
    """The ticket once the file is whole. Whether its checksums were verified is no longer known."""
    size_bytes = sum(part.size_bytes for part in parts)
    update = {"state": UploadState.COMPLETE, "digest": str(manifest), "parts": parts}
    return ticket.model_copy(update=update | {"received_bytes": size_bytes, "total_bytes": size_bytes})


def _token(status: ImportStatus) -> str:
    return status.image_upload_urls.external.rpartition("/")[2] if status.image_upload_urls else ""


def advance_progress(status: ImportStatus, percent: int) -> None:
    """Tell a percentage of what goes on: never less than before, and not yet 100."""
    reached = int(status.progress.rstrip("%")) if status.progress else 0
    status.progress = f"{min(99, max(reached, percent))}%"


def _speed(average: int, current: int | None) -> DownloadSpeed:
    speed = DownloadSpeed(avg=f"{human_bytes(average)}B/s", avg_bytes=str(average))
    if current is not None:
        speed.current, speed.current_bytes = f"{human_bytes(current)}B/s", str(current)
    return speed


def _duration(took: timedelta) -> str:
    """As Go writes durations: 1h2m3s, 1m44s, 5s."""
    minutes, seconds = divmod(round(took.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{seconds}s"
