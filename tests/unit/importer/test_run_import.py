"""What becomes of a job that a worker took, where no byte moves."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dvcr.artifact.image import DiskImage, ImageSource
from dvcr.artifact.store import publish
from dvcr.config import ImporterSettings
from dvcr.jobs.job import HttpOrigin, ImportJob, JobProgress, JobState
from importer.tasks import run_import
from tests.support.jobs import MemoryJobBoard
from tests.support.memory_registry import Fault, MemoryRegistry, refusal

JOB = ImportJob(id="j", repository="cvmi/a", tag="j", origin=HttpOrigin(url="ftp://nowhere"))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings(tmp_path: Path) -> ImporterSettings:
    return ImporterSettings(scratch_dir=tmp_path, retries=0, attempts=4, retry_wait_s=100)


def run(board: MemoryJobBoard, registry: MemoryRegistry, settings: ImporterSettings, job: ImportJob = JOB) -> None:
    taken = board.take("worker", settings.lease_s)
    assert taken is not None
    assert taken.job == job
    run_import(taken, "worker", board, registry.client(), settings)


def told(board: MemoryJobBoard, job: ImportJob = JOB) -> JobProgress:
    progress = board.progress(job.id)
    assert progress is not None
    return progress


def test_image_that_is_there_succeeds_without_its_source(settings: ImporterSettings) -> None:
    board, registry = MemoryJobBoard(), MemoryRegistry()
    image = DiskImage(512, 4 * 2**20, (), False, ImageSource("raw", 512), datetime.now(UTC))
    publish(registry.client().repository(JOB.repository), image, [JOB.tag])
    board.submit(JOB)
    run(board, registry, settings)
    assert (told(board).state, told(board).percent) == (JobState.SUCCEEDED, 100)
    assert board.wake() == 0


def test_permanent_failure_is_told_at_once_with_its_reason(settings: ImporterSettings) -> None:
    for job, reason in (
        (JOB, "SourceUnavailable"),
        (JOB.model_copy(update={"id": "k", "repository": "Not A Name"}), "InvalidRepository"),
        (JOB.model_copy(update={"id": "l", "checksums": {"md5": "short"}}), "InvalidResource"),
    ):
        board = MemoryJobBoard()
        board.submit(job)
        run(board, MemoryRegistry(), settings, job)
        progress = told(board, job)
        assert (progress.state, progress.reason, progress.retryable) == (JobState.FAILED, reason, False)
        assert progress.message
        assert progress.finished_at
        assert board.take("next", 1) is None


def test_cause_that_may_go_away_is_tried_again_later_and_later_then_fails(settings: ImporterSettings) -> None:
    clock, registry = Clock(), MemoryRegistry()
    registry.faults.append(Fault("GET", "/manifests/", times=1000, answer=refusal(503, "UNAVAILABLE")))
    board = MemoryJobBoard(clock)
    board.submit(JOB)
    for attempt, wait_s in ((1, 100), (2, 200), (3, 300)):  # doubled, but for five minutes at most
        before = datetime.now(UTC)
        run(board, registry, settings)
        progress = told(board)
        assert (progress.state, progress.reason) == (JobState.WAITING, "RegistryFailed")
        assert progress.retry_at is not None
        assert abs(progress.retry_at - before - timedelta(seconds=wait_s)) < timedelta(seconds=20)
        at = f"{progress.retry_at:%H:%M:%S}"
        assert progress.message.startswith(f"attempt {attempt} of 4 failed, the next one is at {at} UTC: ")
        clock.now += wait_s - 0.1
        assert board.take("early", 1) is None
        clock.now += 0.2
    run(board, registry, settings)
    progress = told(board)
    assert (progress.state, progress.reason, progress.retryable) == (JobState.FAILED, "RegistryFailed", True)
    assert board.wake() == 0


def test_job_that_kills_its_workers_fails_after_the_limit(settings: ImporterSettings) -> None:
    clock, registry = Clock(), MemoryRegistry()
    board = MemoryJobBoard(clock)
    board.submit(JOB)
    for _ in range(settings.max_crashes):
        assert board.take("dies", 15) is not None
        clock.now += 15
    run(board, registry, settings)
    progress = told(board)
    assert (progress.state, progress.reason, progress.retryable) == (JobState.FAILED, "WorkerCrashed", False)
    assert "died 3 times" in progress.message
    assert registry.asked == []


def test_forgotten_while_it_is_published_leaves_no_image(settings: ImporterSettings) -> None:
    board, registry = MemoryJobBoard(), MemoryRegistry()
    repository = registry.client().repository(JOB.repository)
    image = DiskImage(512, 4 * 2**20, (), False, ImageSource("raw", 512), datetime.now(UTC))
    publish(repository, image, [JOB.tag])
    board.submit(JOB)
    taken = board.take("worker", 15)
    assert taken is not None
    board.forget(JOB.id)
    run_import(taken, "worker", board, registry.client(), settings)
    assert repository.tags() == []
    assert board.progress(JOB.id) is None
