"""What every JobBoard promises."""

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from dvcr.artifact.staged import Part
from dvcr.config import BrokerSettings
from dvcr.digest import Digest
from dvcr.errors import DvcrError
from dvcr.jobs.board import JobBoard, TakenJob
from dvcr.jobs.job import (
    BlobOrigin,
    HttpOrigin,
    ImportJob,
    ImportStage,
    JobProgress,
    JobState,
    Origin,
    UploadState,
    UploadTicket,
)
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


def state_of(board: JobBoard, job_id: str = JOB.id) -> JobProgress:
    progress = board.progress(job_id)
    assert progress is not None
    return progress


def job(job_id: str, namespace: str, size_bytes: int | None = None) -> ImportJob:
    origin: Origin = JOB.origin
    if size_bytes is not None:
        origin = BlobOrigin(repository="vmi/a/x", digest="sha256:d", size_bytes=size_bytes)
    return JOB.model_copy(update={"id": job_id, "namespace": namespace, "origin": origin})


def order(board: JobBoard, at_most: int) -> list[str]:
    """The ids of the next jobs, in the order in which they are taken."""
    taken = [board.take("me", 60) for _ in range(at_most)]
    return [each.job.id for each in taken if each is not None]


def test_unknown_job_has_no_progress(board: JobBoard) -> None:
    assert board.progress("never-sent") is None


def test_submitted_job_is_queued_then_taken_once(board: JobBoard) -> None:
    board.submit(JOB)
    assert (state_of(board).state, state_of(board).percent) == (JobState.QUEUED, 0)
    assert board.wake() == 1
    assert board.take("a", 60) == TakenJob(JOB, failures=0, crashes=0)
    assert board.take("b", 60) is None
    assert board.wake() == 0


def test_jobs_are_unfinished_in_line_leased_and_postponed(board: JobBoard) -> None:
    assert board.unfinished() == 0
    for name in ("runs", "waits", "ends", "stays"):
        board.submit(job(name, "a"))
    assert order(board, 3) == ["runs", "waits", "ends"]
    assert board.postpone("waits", "me", 60, JobProgress(state=JobState.WAITING))
    assert board.unfinished() == 4
    assert board.finish("ends", "me", JobProgress(state=JobState.SUCCEEDED))
    assert board.unfinished() == 3
    for name in ("runs", "waits", "stays"):
        board.forget(name)
    assert board.unfinished() == 0


def test_last_word_round_trips(board: JobBoard) -> None:
    board.submit(JOB)
    assert board.take("a", 60)
    told = JobProgress(
        state=JobState.FAILED,
        stage=ImportStage.CONVERTING,
        percent=7,
        reason="SourceNotFound",
        message="no",
        retryable=True,
        started_at=datetime.now(UTC),
    )
    assert board.finish(JOB.id, "a", told)
    assert board.progress(JOB.id) == told
    assert board.take("b", 60) is None


def test_percent_never_goes_back(board: JobBoard) -> None:
    board.submit(JOB)
    assert board.take("a", 60)
    assert board.renew(JOB.id, "a", 60, running(40))
    assert board.renew(JOB.id, "a", 60, running(12))
    assert state_of(board).percent == 40
    assert board.postpone(JOB.id, "a", 0, JobProgress(state=JobState.WAITING))
    assert (state_of(board).state, state_of(board).percent) == (JobState.WAITING, 40)
    assert board.take("b", 60)
    assert board.finish(JOB.id, "b", JobProgress(state=JobState.SUCCEEDED, percent=100))
    board.submit(JOB)
    assert (state_of(board).state, state_of(board).percent) == (JobState.QUEUED, 99)


def test_figures_never_go_back_over_deliveries_and_attempts(board: JobBoard) -> None:
    def told(fetched_bytes: int, converted_bytes: int, **more: int) -> tuple[int, int]:
        sizes = {"total_bytes": 9 * 10**15, "virtual_size_bytes": 9 * 10**15, **more}
        progress = JobProgress(
            state=JobState.RUNNING, fetched_bytes=fetched_bytes, converted_bytes=converted_bytes, **sizes
        )
        assert board.renew(JOB.id, "a", 60, progress)
        return state_of(board).fetched_bytes, state_of(board).converted_bytes

    board.submit(JOB)
    assert board.take("a", 60)
    large = 8 * 10**15 + 1
    assert told(large, 7) == (large, 7)
    assert told(0, 0) == (large, 7), "the next delivery begins anew"
    assert board.postpone(JOB.id, "a", 0, JobProgress(state=JobState.WAITING))
    assert (state_of(board).fetched_bytes, state_of(board).converted_bytes) == (large, 7)
    assert board.take("a", 60)
    assert told(5, 8) == (large, 8)
    assert told(5, 6, total_bytes=100) == (100, 8), "what is fetched has become another file"


def test_percent_is_monotonic_under_concurrent_reports(board: JobBoard) -> None:
    board.submit(JOB)

    def report(start: int) -> None:
        for percent in range(start, 100, 4):
            board.renew(JOB.id, "a", 60, running(percent))

    threads = [threading.Thread(target=report, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state_of(board).percent == 99


def test_namespaces_take_turns(board: JobBoard) -> None:
    for job_id, namespace in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("a4", "a"), ("b1", "b"), ("b2", "b"), ("c1", "")):
        board.submit(job(job_id, namespace))
    assert order(board, 4) == ["a1", "b1", "c1", "a2"]
    board.submit(job("c2", ""))  # a namespace that comes again does not jump the queue
    board.submit(job("d1", "d"))
    assert order(board, 9) == ["b2", "a3", "c2", "d1", "a4"]


def test_small_ones_go_first_within_a_namespace(board: JobBoard) -> None:
    # The sizes count as 600 s at most, 60 s where they are not known, 30 s and nothing.
    for size_bytes in (10**12, None, 3 * 10**9, 1000):
        board.submit(job(str(size_bytes), "a", size_bytes))
    assert order(board, 9) == ["1000", "3000000000", "None", "1000000000000"]


def test_submitting_again_keeps_place_lease_and_counts(board: JobBoard) -> None:
    board.submit(job("first", "a"))
    board.submit(job("second", "a"))
    board.submit(job("first", "a"))
    assert order(board, 1) == ["first"]
    board.submit(job("first", "a"))
    assert order(board, 9) == ["second"], "the first one is being run"
    assert board.postpone("first", "me", 60, JobProgress(state=JobState.WAITING, message="later"))
    board.submit(job("first", "a"))
    assert board.take("other", 60) is None, "it waits"
    assert state_of(board, "first").message == "later"


def test_finished_job_begins_anew_when_it_is_submitted(board: JobBoard) -> None:
    board.submit(JOB)
    assert board.take("a", 60)
    assert board.postpone(JOB.id, "a", 0, JobProgress(state=JobState.WAITING))
    taken = board.take("a", 60)
    assert taken == TakenJob(JOB, failures=1, crashes=0)
    assert board.finish(JOB.id, "a", JobProgress(state=JobState.FAILED, percent=30))
    board.submit(JOB)
    assert state_of(board).percent == 30
    assert board.take("b", 60) == TakenJob(JOB, failures=0, crashes=0)


def test_finished_job_is_not_revived_by_a_worker_that_was_thought_dead(board: JobBoard) -> None:
    board.submit(JOB)
    assert board.take("a", 0.05)
    eventually(lambda: board.wake() == 1, "the lease ends")
    assert board.take("b", 60)
    last = JobProgress(state=JobState.SUCCEEDED, percent=100)
    assert board.finish(JOB.id, "b", last)
    assert not board.renew(JOB.id, "a", 0.05, running(50))
    assert not board.postpone(JOB.id, "a", 0, JobProgress(state=JobState.WAITING))
    assert not board.finish(JOB.id, "a", JobProgress(state=JobState.FAILED))
    assert board.finish(JOB.id, "b", last), "the first answer may have been lost"
    assert state_of(board) == last
    assert board.take("c", 60) is None


def test_job_whose_worker_died_goes_back_to_its_place(board: JobBoard) -> None:
    board.submit(job("dies", "a"))
    board.submit(job("next", "a"))
    assert board.take("a", 0.05)
    eventually(lambda: board.wake() == 2, "the lease ends")
    taken = board.take("b", 60)
    assert taken == TakenJob(job("dies", "a"), failures=0, crashes=1)
    assert not board.renew("dies", "a", 60, running(50)), "the first worker lives after all"
    assert not board.finish("dies", "a", JobProgress(state=JobState.FAILED))
    assert state_of(board, "dies").state is JobState.QUEUED
    assert board.renew("dies", "b", 60, running(10))


def test_lease_that_ended_can_be_renewed_until_another_takes_the_job(board: JobBoard) -> None:
    board.submit(JOB)
    assert board.take("a", 0.05)
    eventually(lambda: board.wake() == 1, "the lease ends")
    assert board.renew(JOB.id, "a", 60, running(10))
    assert board.take("b", 60) is None


def test_renewed_lease_does_not_end(board: JobBoard) -> None:
    board.submit(JOB)
    assert board.take("a", 0.3)
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        assert board.renew(JOB.id, "a", 0.3, running(1))
        assert board.take("b", 60) is None


def test_job_that_is_given_back_is_taken_at_once_and_counts_as_no_crash(board: JobBoard) -> None:
    board.submit(JOB)
    assert board.take("a", 60)
    board.give_back(JOB.id, "b")
    assert board.take("b", 60) is None
    board.give_back(JOB.id, "a")
    assert board.take("b", 60) == TakenJob(JOB, failures=0, crashes=0)


@pytest.mark.parametrize("where", ["in line", "running", "postponed"])
def test_forgotten_job_leaves_no_trace_and_late_words_do_not_revive_it(board: JobBoard, where: str) -> None:
    board.submit(JOB)
    if where != "in line":
        assert board.take("worker", 0.01)
    if where == "postponed":
        assert board.postpone(JOB.id, "worker", 0.01, JobProgress(state=JobState.WAITING))
    board.forget(JOB.id)
    board.forget(JOB.id)
    assert board.progress(JOB.id) is None
    assert not board.renew(JOB.id, "worker", 60, running(50)), "the running worker notices"
    assert not board.postpone(JOB.id, "worker", 0, running(50))
    assert not board.finish(JOB.id, "worker", running(50))
    assert board.progress(JOB.id) is None
    board.submit(job("other", ""))
    assert order(board, 9) == ["other"]


def test_forgotten_job_can_be_submitted_anew(board: JobBoard) -> None:
    board.submit(JOB)
    assert board.renew(JOB.id, "a", 60, running(50))
    board.forget(JOB.id)
    board.submit(JOB)
    assert state_of(board).percent == 0
    assert board.take("worker", 60)


def test_job_that_the_board_lost_lives_on_with_its_worker(board: JobBoard) -> None:
    assert board.renew(JOB.id, "a", 60, running(50))
    assert state_of(board).percent == 50
    board.submit(JOB)
    assert board.take("b", 60) is None
    assert board.finish(JOB.id, "a", JobProgress(state=JobState.SUCCEEDED, percent=100))


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
    assert board.update_ticket(received, "uploader")
    board.open_ticket(ticket)
    assert board.ticket(ticket.token) == received, "a ticket that is there is left as it is"
    assert received.lease_id != ticket.token


def test_a_closed_ticket_stays_closed(board: JobBoard) -> None:
    ticket = UploadTicket(token="t" * 32, repository="vmi/ns/x", expires_at=datetime.now(UTC))
    board.open_ticket(ticket)
    board.close_ticket(ticket.token)
    board.close_ticket(ticket.token)
    assert not board.update_ticket(ticket, "uploader")
    assert board.ticket(ticket.token) is None
    board.open_ticket(ticket)
    assert board.ticket(ticket.token) is None


def test_a_ticket_is_changed_only_by_who_has_leased_it(board: JobBoard) -> None:
    ticket = UploadTicket(token="t" * 32, repository="vmi/ns/x", expires_at=datetime.now(UTC))
    board.open_ticket(ticket)
    assert board.lease(ticket.lease_id, "a", 60)
    assert not board.update_ticket(ticket.model_copy(update={"received_bytes": 5}), "b")
    assert board.ticket(ticket.token) == ticket
    assert board.update_ticket(ticket.model_copy(update={"received_bytes": 7}), "a")
    told = board.ticket(ticket.token)
    assert told is not None
    assert told.received_bytes == 7


@pytest.mark.parametrize("state", [UploadState.COMPLETE, UploadState.FAILED])
def test_an_upload_that_has_ended_stays_so(board: JobBoard, state: UploadState) -> None:
    ticket = UploadTicket(token="t" * 32, repository="vmi/ns/x", expires_at=datetime.now(UTC))
    ended = ticket.model_copy(update={"state": state})
    assert board.update_ticket(ended, "a")
    assert not board.update_ticket(ticket, "a")
    assert board.ticket(ticket.token) == ended


def test_a_lost_ticket_comes_back_with_its_next_report(board: JobBoard) -> None:
    part = Part(digest=Digest.of(b"bytes"), size_bytes=5)
    ticket = UploadTicket(token="t" * 32, repository="vmi/ns/x", expires_at=datetime.now(UTC), parts=(part,))
    assert board.update_ticket(ticket, "uploader")
    assert board.ticket(ticket.token) == ticket
    assert ticket.offset_bytes == 5


def test_redis_that_does_not_answer_is_told(tmp_path: Path) -> None:
    settings = BrokerSettings(url=SecretStr(f"redis+socket://{tmp_path}/nobody.sock"))
    board = RedisJobBoard.from_settings(settings)
    with pytest.raises(DvcrError, match="Redis") as caught:
        board.submit(JOB)
    assert caught.value.reason == "BrokerUnavailable"
    assert caught.value.retryable
