"""The job board on Redis, and Celery's queue beside it.

Keys, all with a lifetime, so that nothing stays behind when a resource is forgotten by a crash:

    dvcr:job:<id>       hash   `progress`: JobProgress as JSON; `percent`: the highest percentage told so far
    dvcr:lease:<id>     string the owner of the right to run the job; empty once the job was forgotten
    dvcr:upload:<hash>  string UploadTicket as JSON, under the SHA-256 of its token: tokens are no key names

What must be atomic is one Lua script each.
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
from dvcr.jobs.job import IMPORT_QUEUE, IMPORT_TASK, ImportJob, JobProgress, JobState, UploadTicket

LIFETIME_S = 7 * 24 * 3600
_CONNECT_TIMEOUT_S = 5
_REPLY_TIMEOUT_S = 15

# KEYS: job, lease. ARGV: progress JSON, percent, lifetime, "submit" or "report". The percentage never goes back, and a
# late report does not bring a forgotten job back to life.
_RECORD = """
if redis.call('GET', KEYS[2]) == '' then
  if ARGV[4] == 'report' then return 0 end
  redis.call('DEL', KEYS[2])
end
local percent = math.max(tonumber(redis.call('HGET', KEYS[1], 'percent') or '0'), tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'progress', ARGV[1], 'percent', percent)
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""
_FORGET = """
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], '', 'EX', ARGV[1])
"""
_LEASE = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class RedisJobBoard:
    """A JobBoard that every process of an installation shares. Thread-safe.

    Every method raises DvcrError `BrokerUnavailable`, retryable, where Redis does not answer.
    """

    def __init__(self, connection: "redis.Redis", queue: Celery) -> None:
        self._redis = connection
        self._queue = queue
        self._record = connection.register_script(_RECORD)
        self._forget = connection.register_script(_FORGET)
        self._lease = connection.register_script(_LEASE)
        self._release = connection.register_script(_RELEASE)

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
        """Set the job to Queued, then send it: a worker drops a job of which the board knows nothing."""
        self._write(job.id, JobProgress(state=JobState.QUEUED), "submit")
        try:
            self._queue.send_task(
                IMPORT_TASK,
                kwargs={"job": job.model_dump(mode="json")},
                kwargsrepr=job.id,  # logs need no addresses with credentials
                queue=IMPORT_QUEUE,
                ignore_result=True,
            )
        except (OperationalError, redis.RedisError, OSError) as exc:
            raise _unavailable(exc) from exc

    def progress(self, job_id: str) -> JobProgress | None:
        """The last word on the job, with the highest percentage ever told."""
        with _translated():
            text, percent = cast("list[str | None]", self._redis.hmget(_job(job_id), ["progress", "percent"]))
        if text is None:
            return None
        return JobProgress.model_validate_json(text).model_copy(update={"percent": int(float(percent or 0))})

    def report(self, job_id: str, progress: JobProgress) -> None:
        """Record the worker's word, unless the job was forgotten."""
        self._write(job_id, progress, "report")

    def forget(self, job_id: str) -> None:
        """Remove the progress and take the lease away from whoever has it."""
        with _translated():
            self._forget(keys=[_job(job_id), _lease(job_id)], args=[LIFETIME_S])

    def lease(self, job_id: str, owner: str, ttl_s: float) -> bool:
        """Take or renew the right to run the job; False too once the job was forgotten."""
        with _translated():
            return bool(self._lease(keys=[_lease(job_id)], args=[owner, int(ttl_s * 1000)]))

    def release(self, job_id: str, owner: str) -> None:
        """Give the right back, if `owner` has it."""
        with _translated():
            self._release(keys=[_lease(job_id)], args=[owner])

    def open_ticket(self, ticket: UploadTicket) -> None:
        """Allow an upload, unless the ticket is there already."""
        with _translated():
            self._redis.set(_upload(ticket.token), ticket.model_dump_json(), nx=True, ex=LIFETIME_S)

    def ticket(self, token: str) -> UploadTicket | None:
        """The ticket under this token."""
        with _translated():
            text = cast("str | None", self._redis.get(_upload(token)))
        return None if text is None else UploadTicket.model_validate_json(text)

    def update_ticket(self, ticket: UploadTicket) -> None:
        """Record how far the upload is; a ticket that was closed stays closed."""
        with _translated():
            self._redis.set(_upload(ticket.token), ticket.model_dump_json(), xx=True, ex=LIFETIME_S)

    def close_ticket(self, token: str) -> None:
        """Remove the ticket."""
        with _translated():
            self._redis.delete(_upload(token))

    def _write(self, job_id: str, progress: JobProgress, verb: str) -> None:
        with _translated():
            self._record(
                keys=[_job(job_id), _lease(job_id)],
                args=[progress.model_dump_json(), progress.percent, LIFETIME_S, verb],
            )


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


def _lease(job_id: str) -> str:
    return f"dvcr:lease:{job_id}"


def _upload(token: str) -> str:
    return f"dvcr:upload:{hashlib.sha256(token.encode()).hexdigest()}"


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
