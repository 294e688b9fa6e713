"""What every JobBoard promises."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from dvcr.artifact.staged import Part
from dvcr.config import BrokerSettings
from dvcr.digest import Digest
from dvcr.errors import DvcrError
from dvcr.jobs.board import JobBoard
from dvcr.jobs.job import HttpOrigin, ImportJob, JobProgress, JobState, UploadState, UploadTicket
from dvcr.jobs.redis import RedisJobBoard
from tests.support.jobs import MemoryJobBoard
from tests.support.waiting import eventually

JOB = ImportJob(id="uid-1", repository="cvmi/debian", tag="uid-1", origin=HttpOrigin(url="http://example.com/d.qcow2"))


@pytest.fixture(params=["memory", "redis"])
def board(request: pytest.FixtureRequest) -> JobBoard:
    if request.param == "memory":
        return MemoryJobBoard()
    server = request.getfixturevalue("redis_server")
    return RedisJobBoard.from_settings(server.settings())


def running(percent: int) -> JobProgress:
    return JobProgress(state=JobState.RUNNING, percent=percent, fetched_bytes=percent)


def state_of(board: JobBoard) -> JobProgress:
    progress = board.progress(JOB.id)
    assert progress is not None
    return progress


def test_unknown_job_has_no_progress(board: JobBoard) -> None:
    assert board.progress("never-sent") is None


def test_submitted_job_is_queued(board: JobBoard) -> None:
    board.submit(JOB)
    assert state_of(board).state is JobState.QUEUED
    assert state_of(board).percent == 0


def test_report_round_trips(board: JobBoard) -> None:
    board.submit(JOB)
    told = JobProgress(
        state=JobState.FAILED, percent=7, reason="SourceNotFound", message="no", started_at=datetime.now(UTC)
    )
    board.report(JOB.id, told)
    assert board.progress(JOB.id) == told


def test_percent_never_goes_back(board: JobBoard) -> None:
    board.submit(JOB)
    board.report(JOB.id, running(40))
    board.report(JOB.id, running(12))
    assert state_of(board).percent == 40
    assert state_of(board).fetched_bytes == 12
    board.submit(JOB)
    assert state_of(board).state is JobState.QUEUED
    assert state_of(board).percent == 40


def test_percent_is_monotonic_under_concurrent_reports(board: JobBoard) -> None:
    board.submit(JOB)

    def report(start: int) -> None:
        for percent in range(start, 100, 4):
            board.report(JOB.id, running(percent))

    threads = [threading.Thread(target=report, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state_of(board).percent == 99


def test_forgotten_job_leaves_no_trace_and_late_reports_do_not_revive_it(board: JobBoard) -> None:
    board.submit(JOB)
    assert board.lease(JOB.id, "worker", 60)
    board.forget(JOB.id)
    board.forget(JOB.id)
    assert board.progress(JOB.id) is None
    assert not board.lease(JOB.id, "worker", 60), "the running worker notices"
    board.report(JOB.id, running(50))
    assert board.progress(JOB.id) is None


def test_forgotten_job_can_be_submitted_anew(board: JobBoard) -> None:
    board.submit(JOB)
    board.report(JOB.id, running(50))
    board.forget(JOB.id)
    board.submit(JOB)
    assert state_of(board).percent == 0
    assert board.lease(JOB.id, "worker", 60)


def test_lease_is_exclusive_renewable_and_released_only_by_its_owner(board: JobBoard) -> None:
    assert board.lease("j", "a", 60)
    assert board.lease("j", "a", 60)
    assert not board.lease("j", "b", 60)
    board.release("j", "b")
    assert not board.lease("j", "b", 60)
    board.release("j", "a")
    assert board.lease("j", "b", 60)


def test_lease_ends_by_itself(board: JobBoard) -> None:
    assert board.lease("j", "a", 0.05)
    eventually(lambda: board.lease("j", "b", 60), "the lease ends")


def test_tickets(board: JobBoard) -> None:
    ticket = UploadTicket(token="t" * 32, repository="vmi/ns/x", expires_at=datetime.now(UTC) + timedelta(minutes=15))
    assert board.ticket(ticket.token) is None
    board.open_ticket(ticket)
    assert board.ticket(ticket.token) == ticket
    received = ticket.model_copy(update={"state": UploadState.RECEIVING, "received_bytes": 5})
    board.update_ticket(received)
    board.open_ticket(ticket)
    assert board.ticket(ticket.token) == received, "a ticket that is there is left as it is"
    assert received.lease_id != ticket.token


def test_a_closed_ticket_stays_closed(board: JobBoard) -> None:
    ticket = UploadTicket(token="t" * 32, repository="vmi/ns/x", expires_at=datetime.now(UTC))
    board.open_ticket(ticket)
    board.close_ticket(ticket.token)
    board.close_ticket(ticket.token)
    board.update_ticket(ticket)
    assert board.ticket(ticket.token) is None
    board.open_ticket(ticket)
    assert board.ticket(ticket.token) is None


def test_a_lost_ticket_comes_back_with_its_next_report(board: JobBoard) -> None:
    part = Part(digest=Digest.of(b"bytes"), size_bytes=5)
    ticket = UploadTicket(token="t" * 32, repository="vmi/ns/x", expires_at=datetime.now(UTC), parts=(part,))
    board.update_ticket(ticket)
    assert board.ticket(ticket.token) == ticket
    assert ticket.offset_bytes == 5


def test_redis_that_does_not_answer_is_told(tmp_path: Path) -> None:
    settings = BrokerSettings(url=SecretStr(f"redis+socket://{tmp_path}/nobody.sock"))
    board = RedisJobBoard.from_settings(settings)
    with pytest.raises(DvcrError, match="Redis") as caught:
        board.submit(JOB)
    assert caught.value.reason == "BrokerUnavailable"
    assert caught.value.retryable
