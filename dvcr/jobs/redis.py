"""The job board on Redis, and Celery's queue beside it.

Keys:

    dvcr:job:<id>          hash    progress   JobProgress as JSON
                                   percent, fetched, converted   the highest told so far
                                   job        ImportJob as JSON, until it is finished
                                   namespace, place   its line, and its place there
                                   owner      who runs it now
                                   failures, crashes  since it was submitted
                                   finished   who finished it, until it is submitted anew
                                   forgotten  set, and nothing else, once it was forgotten
    dvcr:line:<namespace>  zset    jobs in line, by place
    dvcr:turns             zset    namespaces that have jobs in line, by turn; the lowest is next
    dvcr:turn              number  the last turn given out
    dvcr:due               zset    jobs that are leased or postponed, by the end of that
    dvcr:lease:<key>       string  the owner of some other right
    dvcr:upload:<hash>     string  UploadTicket as JSON, under the SHA-256 of its token: tokens are no key names;
                                   empty once it was closed
    imports                list    Celery's messages. They name no job: each calls a worker that takes whichever is next

What is about one job or upload has a lifetime, so that nothing stays behind when a resource is forgotten by a crash.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from dvcr.config import BrokerSettings
from dvcr.errors import DvcrError
from dvcr.jobs import scripts
from dvcr.jobs.board import TakenJob
from dvcr.jobs.job import IMPORT_QUEUE, IMPORT_TASK, BlobOrigin, ImportJob, JobProgress, JobState, UploadTicket

LIFETIME_S = 7 * 24 * 3600
_CONNECT_TIMEOUT_S = 5
_REPLY_TIMEOUT_S = 15
_MAX_CALLS = 100
_FETCHED_BYTES_S = 100 * 10**6
_LONGEST_HANDICAP_S = 600
_UNKNOWN_SIZE_HANDICAP_S = 60


class RedisJobBoard:
    """A JobBoard that every process of an installation shares. Thread-safe.

    Every method raises DvcrError `BrokerUnavailable`, retryable, where Redis does not answer.
    """

    def __init__(self, connection: "redis.Redis", queue: Celery) -> None:
        self._redis = connection
        self._queue = queue
        self._submit = connection.register_script(scripts.SUBMIT)
        self._forget = connection.register_script(scripts.FORGET)
        self._take = connection.register_script(scripts.TAKE)
        self._renew = connection.register_script(scripts.RENEW)
        self._postpone = connection.register_script(scripts.POSTPONE)
        self._give_back = connection.register_script(scripts.GIVE_BACK)
        self._finish = connection.register_script(scripts.FINISH)
        self._in_line = connection.register_script(scripts.IN_LINE)
        self._unfinished = connection.register_script(scripts.UNFINISHED)
        self._lease = connection.register_script(scripts.LEASE)
        self._release = connection.register_script(scripts.RELEASE)
        self._update_ticket = connection.register_script(scripts.UPDATE_TICKET)

    @classmethod
    def from_settings(cls, settings: BrokerSettings) -> Self:
        """The board on the Redis that the settings name. Nothing is sent yet."""
        url = settings.url.get_secret_value()
        connection = redis.Redis.from_url(
            url.replace("redis+socket://", "unix://", 1),  # Celery's word for it
            decode_responses=True,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=_REPLY_TIMEOUT_S,
            health_check_interval=30,
        )
        return cls(connection, celery_queue(settings))

    def submit(self, job: ImportJob) -> None:
        """Put the job in line, then call a worker; where the call is lost, `wake` makes up for it."""
        queued = JobProgress(state=JobState.QUEUED).model_dump_json()
        arguments: list[str | int] = [
            job.id,
            job.model_dump_json(),
            job.namespace,
            _handicap_us(job),
            queued,
            LIFETIME_S,
        ]
        with _translated():
            self._submit(args=arguments)
        self._call_worker()

    def progress(self, job_id: str) -> JobProgress | None:
        """The last word on the job, with the highest figures ever told."""
        with _translated():
            text, *reached = cast(
                "list[str | None]", self._redis.hmget(_job(job_id), ["progress", "percent", "fetched", "converted"])
            )
        if text is None:
            return None
        percent, fetched_bytes, converted_bytes = (int(float(each or 0)) for each in reached)
        return JobProgress.model_validate_json(text).reached(percent, fetched_bytes, converted_bytes)

    def forget(self, job_id: str) -> None:
        """Remove the job, and leave a mark by which a worker that runs it notices."""
        with _translated():
            self._forget(args=[job_id, LIFETIME_S])

    def take(self, owner: str, ttl_s: float) -> TakenJob | None:
        """Lease the next job, if there is one."""
        with _translated():
            found = cast("list[str] | None", self._take(args=["", owner, _us(ttl_s)]))
        if not found:
            return None
        job, failures, crashes = found
        return TakenJob(ImportJob.model_validate_json(job), int(failures), int(crashes))

    def renew(self, job_id: str, owner: str, ttl_s: float, progress: JobProgress) -> bool:
        """Keep the lease and tell the progress."""
        return self._speak(self._renew, job_id, owner, ttl_s, progress)

    def postpone(self, job_id: str, owner: str, wait_s: float, progress: JobProgress) -> bool:
        """Give the lease back for another attempt after a wait."""
        return self._speak(self._postpone, job_id, owner, wait_s, progress)

    def give_back(self, job_id: str, owner: str) -> None:
        """Give the lease back and call another worker."""
        with _translated():
            self._give_back(args=[job_id, owner])
        self._call_worker()

    def finish(self, job_id: str, owner: str, progress: JobProgress) -> bool:
        """Record the last word."""
        return self._speak(self._finish, job_id, owner, 0, progress)

    def wake(self) -> int:
        """Put in line what is due, and call workers where fewer are called than jobs are in line."""
        with _translated():
            in_line = int(self._in_line())
            called = self._redis.llen(IMPORT_QUEUE)
        for _ in range(min(in_line, _MAX_CALLS) - called):
            self._call_worker()
        return in_line

    def unfinished(self) -> int:
        """How many are in line, leased or postponed."""
        with _translated():
            return int(self._unfinished())

    def lease(self, key: str, owner: str, ttl_s: float) -> bool:
        """Take or renew a right."""
        with _translated():
            return bool(self._lease(keys=[_lease(key)], args=[owner, int(ttl_s * 1000)]))

    def release(self, key: str, owner: str) -> None:
        """Give the right back, if `owner` has it."""
        with _translated():
            self._release(keys=[_lease(key)], args=[owner])

    def open_ticket(self, ticket: UploadTicket) -> None:
        """Allow an upload, unless the ticket is there already."""
        with _translated():
            self._redis.set(_upload(ticket.token), ticket.model_dump_json(), nx=True, ex=LIFETIME_S)

    def ticket(self, token: str) -> UploadTicket | None:
        """The ticket under this token."""
        with _translated():
            text = cast("str | None", self._redis.get(_upload(token)))
        return UploadTicket.model_validate_json(text) if text else None

    def update_ticket(self, ticket: UploadTicket, owner: str) -> bool:
        """Record how far the upload is, also where Redis lost the ticket meanwhile."""
        keys = [_upload(ticket.token), _lease(ticket.lease_id)]
        with _translated():
            return bool(self._update_ticket(keys=keys, args=[ticket.model_dump_json(), LIFETIME_S, owner]))

    def close_ticket(self, token: str) -> None:
        """Remove the ticket."""
        with _translated():
            self._redis.set(_upload(token), "", ex=LIFETIME_S)

    def _speak(self, script: Any, job_id: str, owner: str, time_s: float, progress: JobProgress) -> bool:
        arguments = [job_id, owner, _us(time_s), progress.model_dump_json(), LIFETIME_S]
        with _translated():
            return bool(script(args=arguments))

    def _call_worker(self) -> None:
        try:
            self._queue.send_task(IMPORT_TASK, queue=IMPORT_QUEUE, ignore_result=True)
        except (OperationalError, redis.RedisError, OSError) as exc:
            raise _unavailable(exc) from exc


def celery_queue(settings: BrokerSettings, name: str = "dvcr") -> Any:
    """A Celery application on the broker of the settings; it knows no task: tasks are sent by name."""
    app = Celery(name, broker=settings.url.get_secret_value(), set_as_current=False)
    app.conf.update(
        task_default_queue=IMPORT_QUEUE,
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=_CONNECT_TIMEOUT_S,
        task_publish_retry_policy={"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1},
        broker_transport_options={
            "visibility_timeout": settings.visibility_timeout_s,
            # kombu looks for lost tasks every 100 s unless told otherwise; a tenth of the timeout is soon enough.
            "unacked_restore_interval": max(1, settings.visibility_timeout_s // 10),
            "unacked_restore_throttle": 1,
            # A worker killed while it held this lock must not keep others from looking.
            "unacked_mutex_expire": max(2, settings.visibility_timeout_s // 2),
            "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        },
    )
    return app


def _job(job_id: str) -> str:
    return f"dvcr:job:{job_id}"


def _lease(key: str) -> str:
    return f"dvcr:lease:{key}"


def _upload(token: str) -> str:
    return f"dvcr:upload:{hashlib.sha256(token.encode()).hexdigest()}"


def _us(time_s: float) -> int:
    return int(time_s * 1_000_000)


def _handicap_us(job: ImportJob) -> int:
    """By how much the job counts as having come later: small ones go first, and large ones do not wait for ever."""
    if isinstance(job.origin, BlobOrigin):
        return _us(min(job.origin.size_bytes / _FETCHED_BYTES_S, _LONGEST_HANDICAP_S))
    return _us(_UNKNOWN_SIZE_HANDICAP_S)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as exc:
        raise _unavailable(exc) from exc


def _unavailable(exc: Exception) -> DvcrError:
    return DvcrError(
        f"Redis does not answer: {exc}; check broker.url and that redis-server runs",
        reason="BrokerUnavailable",
        retryable=True,
    )
