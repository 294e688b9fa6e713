"""The Celery application that runs import jobs."""

import functools
import warnings
from typing import Any

from celery.platforms import SecurityWarning
from celery.signals import setup_logging, worker_ready

from dvcr.client.registry import RegistryClient
from dvcr.config import Settings
from dvcr.jobs.job import IMPORT_QUEUE, IMPORT_TASK, ImportJob
from dvcr.jobs.redis import RedisJobBoard, celery_queue
from importer.kept import sweep
from importer.tasks import Outcome, run_import


def build_app(settings: Settings) -> Any:
    """A Celery application with the import task, on the broker, registry and scratch folder of the settings.

    A task is acknowledged when it ends, so one whose worker died is delivered again: at once where only the pool's
    child died, after `broker.visibility_timeout_s` where the whole worker did. That timeout also passes for imports
    that simply take longer; the lease keeps such a second delivery from running, and it comes back later, in case the
    first one dies.
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
    def connections() -> tuple[RedisJobBoard, RegistryClient]:
        # Made in the pool's child: sockets do not survive a fork.
        return RedisJobBoard.from_settings(settings.broker), RegistryClient.from_settings(settings.client)

    @app.task(name=IMPORT_TASK, bind=True, max_retries=None)  # type: ignore[untyped-decorator]
    def import_image(self: Any, job: dict[str, Any]) -> None:
        board, client = connections()
        if run_import(ImportJob.model_validate(job), board, client, settings.importer) is Outcome.BUSY:
            raise self.retry(countdown=settings.importer.lease_s)

    return app


def run_worker(settings: Settings) -> None:
    """Take import jobs until SIGTERM or SIGINT. Prints one line when it is ready."""
    # Celery warns root about messages that are pickles; only JSON is accepted here.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    sweep(settings.importer.scratch_dir, settings.importer.resume_keep_s)
    app = build_app(settings)
    setup_logging.connect(_keep_logging, weak=False)
    worker_ready.connect(_tell_ready, weak=False)
    app.Worker(
        queues=[IMPORT_QUEUE],
        pool="prefork",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    ).start()


def _keep_logging(**_: object) -> None:
    """Connected, so that Celery leaves the logging of `dvcr` as it is."""


def _tell_ready(**_: object) -> None:
    print("worker ready", flush=True)
