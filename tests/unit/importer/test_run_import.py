"""What a delivery does with the board, where no byte moves."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dvcr.artifact.image import DiskImage, ImageSource
from dvcr.artifact.store import publish
from dvcr.config import ImporterSettings
from dvcr.jobs.job import HttpOrigin, ImportJob, JobProgress, JobState
from importer.tasks import Outcome, run_import
from tests.support.jobs import MemoryJobBoard
from tests.support.memory_registry import MemoryRegistry

JOB = ImportJob(id="j", repository="cvmi/a", tag="j", origin=HttpOrigin(url="ftp://nowhere"))


@pytest.fixture
def settings(tmp_path: Path) -> ImporterSettings:
    return ImporterSettings(scratch_dir=tmp_path, retries=0)


def test_job_of_which_the_board_knows_nothing_is_dropped(settings: ImporterSettings) -> None:
    registry = MemoryRegistry()
    assert run_import(JOB, MemoryJobBoard(), registry.client(), settings) is Outcome.DONE
    assert registry.asked == []


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED])
def test_finished_job_is_not_run_again(settings: ImporterSettings, state: JobState) -> None:
    board, registry = MemoryJobBoard(), MemoryRegistry()
    board.submit(JOB)
    last = JobProgress(state=state, percent=40, reason="X")
    board.report(JOB.id, last)
    assert run_import(JOB, board, registry.client(), settings) is Outcome.DONE
    assert board.progress(JOB.id) == last


def test_job_that_another_worker_runs_is_left_to_it(settings: ImporterSettings) -> None:
    board, registry = MemoryJobBoard(), MemoryRegistry()
    board.submit(JOB)
    assert board.lease(JOB.id, "other", 60)
    assert run_import(JOB, board, registry.client(), settings) is Outcome.BUSY
    assert registry.asked == []


def test_image_that_is_there_succeeds_without_its_source(settings: ImporterSettings) -> None:
    board, registry = MemoryJobBoard(), MemoryRegistry()
    image = DiskImage(512, 4 * 2**20, (), False, ImageSource("raw", 512), datetime.now(UTC))
    publish(registry.client().repository(JOB.repository), image, [JOB.tag])
    board.submit(JOB)
    assert run_import(JOB, board, registry.client(), settings) is Outcome.DONE
    progress = board.progress(JOB.id)
    assert progress is not None
    assert (progress.state, progress.percent) == (JobState.SUCCEEDED, 100)
    assert board.lease(JOB.id, "next", 1), "the lease was given back"


def test_failure_is_told_with_its_reason(settings: ImporterSettings) -> None:
    for job, reason in (
        (JOB, "SourceUnavailable"),
        (JOB.model_copy(update={"id": "k", "repository": "Not A Name"}), "InvalidRepository"),
        (JOB.model_copy(update={"id": "l", "checksums": {"md5": "short"}}), "InvalidResource"),
    ):
        board = MemoryJobBoard()
        board.submit(job)
        assert run_import(job, board, MemoryRegistry().client(), settings) is Outcome.DONE
        progress = board.progress(job.id)
        assert progress is not None
        assert (progress.state, progress.reason) == (JobState.FAILED, reason)
        assert progress.message
        assert progress.finished_at
        assert board.lease(job.id, "next", 1)
