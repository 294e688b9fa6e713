"""The Celery application that runs import jobs."""

import functools
import os
import secrets
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from celery.platforms import SecurityWarning
from celery.signals import setup_logging, worker_ready

from dvcr.client.registry import RegistryClient
from dvcr.config import Settings
from dvcr.errors import DvcrError
from dvcr.jobs.board import JobBoard
from dvcr.jobs.job import IMPORT_QUEUE, IMPORT_TASK
from dvcr.jobs.redis import RedisJobBoard, celery_queue
from dvcr.monitoring import Monitoring
from importer.dispatcher import Dispatcher
from importer.ending import end_in_time
from importer.kept import sweep
from importer.recall import RedisChunkIndex
from importer.tasks import run_import

log = structlog.get_logger(__name__)


def build_app(settings: Settings) -> Any:
    """A Celery application with the import task, on the broker, registry and scratch folder of the settings.

    A message names no job: it calls a worker, which takes the next job from the board. So it does no harm that Celery
    delivers messages again, or loses them. They are acknowledged when the task ends and none is fetched ahead: a worker
    whose children are all busy leaves them to others.
    """
    app = celery_queue(settings.broker, "dvcr.importer")
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_concurrency=settings.importer.concurrency,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
    )

    @functools.cache
    def connections() -> tuple[RedisJobBoard, RegistryClient, RedisChunkIndex | None]:
        # Made in the pool's child: sockets do not survive a fork.
        remembered_s = settings.importer.recall_chunks_s
        return (
            RedisJobBoard.from_settings(settings.broker),
            RegistryClient.from_settings(settings.client),
            RedisChunkIndex.from_settings(settings.broker, remembered_s) if remembered_s else None,
        )

    @app.task(name=IMPORT_TASK)  # type: ignore[untyped-decorator]
    def import_next() -> None:
        board, client, index = connections()
        owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        taken = board.take(owner, settings.importer.lease_s)
        if taken is not None:
            with _given_back_on_sigterm(board, taken.job.id, owner):
                run_import(taken, owner, board, client, settings.importer, index)

    return app


def run_worker(settings: Settings) -> None:
    """Take import jobs until SIGTERM or SIGINT. Prints one line when it is ready."""
    # Celery warns root about messages that are pickles; only JSON is accepted here.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    sweep(settings.importer.scratch_dir, settings.importer.resume_keep_s)
    app = build_app(settings)
    setup_logging.connect(_keep_logging, weak=False)
    worker_ready.connect(_tell_ready, weak=False)
    board = RedisJobBoard.from_settings(settings.broker)
    dispatcher = Dispatcher(board, settings.importer.scratch_dir, settings.importer.lease_s / 3)
    worker_ready.connect(dispatcher.start, weak=False)
    ready = threading.Event()
    worker_ready.connect(lambda **_: ready.set(), weak=False)
    worker = app.Worker(
        queues=[IMPORT_QUEUE],
        pool="prefork",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    end_in_time()
    with Monitoring(settings.monitoring, ready.is_set):
        worker.start()


@contextmanager
def _given_back_on_sigterm(board: JobBoard, job_id: str, owner: str) -> Iterator[None]:
    """While entered, SIGTERM ends this process at once, and the next worker finds the job in line: no crash.

    In a thread of its own: the main one may hold any lock at that moment. Nothing needs to be cleaned up that a kill
    does not clean up too.
    """

    def stop() -> None:
        try:
            board.give_back(job_id, owner)
        except DvcrError as error:
            log.warning("an import cannot be given back, its lease must end first", job=job_id, error=error.message)
        os._exit(0)

    former = signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=stop, daemon=True).start())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _keep_logging(**_: object) -> None:
    """Connected, so that Celery leaves the logging of `dvcr` as it is."""


def _tell_ready(**_: object) -> None:
    print("worker ready", flush=True)
