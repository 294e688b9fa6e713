"""Images: what the user sees when things go wrong, and what is left behind."""

from datetime import timedelta

from controller.api.resource import CLUSTER_IMAGE, EVENT, IMAGE
from dvcr.artifact.staged import Part
from dvcr.digest import Digest
from dvcr.errors import RegistryError
from dvcr.jobs.job import JobProgress, JobState, UploadState
from tests.unit.controller.world import World

HTTP = {"dataSource": {"type": "HTTP", "http": {"url": "http://x/y.img"}}}
UPLOAD = {"dataSource": {"type": "Upload"}}


def token_of(world: World, name: str = "up") -> str:
    command: str = world.status(IMAGE, name)["uploadCommand"]
    return command.split()[1].rpartition("/")[2]


def test_a_failed_job_fails_the_image_with_the_reason_and_message() -> None:
    world = World()
    uid = world.apply(IMAGE, "a", HTTP)["metadata"]["uid"]
    world.board.report(uid, JobProgress(state=JobState.FAILED, reason="SourceNotFound", message="404"))
    world.settle()
    status = world.status(IMAGE, "a")
    assert (status["phase"], status["failureReason"], status["failureMessage"]) == ("Failed", "SourceNotFound", "404")
    assert world.condition(IMAGE, "a", "Ready")["reason"] == "SourceNotFound"
    assert ("Warning", "404") in [(e["type"], e["message"]) for e in world.cluster.list(EVENT)]


def test_a_running_import_says_what_it_waits_for() -> None:
    world = World()
    uid = world.apply(IMAGE, "a", HTTP)["metadata"]["uid"]
    trouble = "no bytes from the source for 40 s, trying again (3 of 6)"
    world.board.report(uid, JobProgress(state=JobState.RUNNING, message=trouble, updated_at=world.now))
    world.settle()
    condition = world.condition(IMAGE, "a", "Ready")
    assert (condition["reason"], condition["message"]) == ("Importing", f"a worker has taken the import; {trouble}")
    world.board.report(uid, JobProgress(state=JobState.RUNNING, updated_at=world.now))
    world.settle()
    assert world.condition(IMAGE, "a", "Ready")["message"] == "a worker has taken the import"


def test_lost_progress_is_noticed_and_the_job_sent_again() -> None:
    world = World()
    uid = world.apply(IMAGE, "a", HTTP)["metadata"]["uid"]
    world.board.report(uid, JobProgress(state=JobState.RUNNING, percent=50, updated_at=world.now))
    world.settle()
    world.board.forget(uid)
    world.settle()
    assert len(world.board.submitted) == 2
    assert world.status(IMAGE, "a")["progress"] == "50%", "progress never goes back"


def test_a_new_image_gets_in_line_while_the_registry_is_away() -> None:
    world = World()
    world.registry.error = RegistryError("the registry is away", reason="RegistryUnavailable")
    world.apply(IMAGE, "a", HTTP)

    assert len(world.board.submitted) == 1
    assert world.condition(IMAGE, "a", "Ready")["reason"] == "ImportQueued"


def test_a_worker_that_went_silent_is_replaced() -> None:
    world = World()
    uid = world.apply(IMAGE, "a", HTTP)["metadata"]["uid"]
    world.board.report(uid, JobProgress(state=JobState.RUNNING, percent=50, updated_at=world.now))
    world.pass_time(30)
    world.settle()
    assert len(world.board.submitted) == 1
    world.pass_time(31)
    world.reconcilers[IMAGE].reconcile(("default", "a"))
    assert len(world.board.submitted) == 2


def test_a_job_that_says_it_succeeded_is_not_believed() -> None:
    world = World()
    uid = world.apply(IMAGE, "a", HTTP)["metadata"]["uid"]
    world.board.report(uid, JobProgress(state=JobState.SUCCEEDED, percent=100, updated_at=world.now))
    world.settle()
    status = world.status(IMAGE, "a")
    assert (status["phase"], status["progress"]) == ("Provisioning", "99%")


def test_an_import_that_has_waited_long_is_looked_at_seldom() -> None:
    world = World()
    uid = world.apply(IMAGE, "a", HTTP)["metadata"]["uid"]
    world.board.report(uid, JobProgress(state=JobState.QUEUED, updated_at=world.now))
    looks_s = []
    for passes_s in (1, 4, 55):
        world.pass_time(passes_s)
        looks_s.append(world.reconcilers[IMAGE].reconcile(("default", "a")))
    assert looks_s == [1, 2.5, 10]


def test_an_import_tells_how_long_it_took() -> None:
    world = World()
    uid = world.apply(IMAGE, "a", HTTP)["metadata"]["uid"]
    done = JobProgress(
        state=JobState.SUCCEEDED, percent=100, started_at=world.now, finished_at=world.now + timedelta(seconds=104)
    )
    world.board.report(uid, done)
    world.registry.add("vmi/default/a", uid, cdrom=True)
    world.settle()
    status = world.status(IMAGE, "a")
    assert (status["importDuration"], status["cdrom"], status["format"]) == ("1m44s", True, "iso")


def test_deleting_an_image_leaves_nothing() -> None:
    world = World()
    uid = world.apply(CLUSTER_IMAGE, "a", HTTP)["metadata"]["uid"]
    world.publish("cvmi/a", uid)
    world.settle()
    assert world.delete(CLUSTER_IMAGE, "a") is None
    assert world.registry.images == {}
    assert world.board.progress(uid) is None


def test_an_upload_waits_for_the_user_then_is_imported_as_a_blob() -> None:
    world = World()
    uid = world.apply(IMAGE, "up", UPLOAD)["metadata"]["uid"]
    status = world.status(IMAGE, "up")
    token = token_of(world)
    assert status["phase"] == "WaitForUserUpload"
    assert status["uploadCommand"] == f"curl http://127.0.0.1:5001/upload/{token} -T example.iso"
    assert status["imageUploadURLs"]["inCluster"].endswith(token)
    assert len(token) >= 40
    ticket = world.board.ticket(token)
    assert ticket is not None
    receiving = ticket.model_copy(update={"state": UploadState.RECEIVING, "received_bytes": 50, "total_bytes": 100})
    world.board.update_ticket(receiving, "uploader")
    world.settle()
    assert (world.status(IMAGE, "up")["phase"], world.status(IMAGE, "up")["progress"]) == ("Provisioning", "25%")
    world.board.update_ticket(
        receiving.model_copy(update={"state": UploadState.COMPLETE, "digest": "sha256:d"}), "uploader"
    )
    world.settle()
    (job,) = world.board.submitted
    assert job.origin.model_dump() == {
        "kind": "blob", "repository": "vmi/default/up", "digest": "sha256:d", "size_bytes": 50, "verified": False,
    }  # fmt: skip
    world.publish("vmi/default/up", uid)
    world.settle()
    status = world.status(IMAGE, "up")
    assert (status["phase"], "uploadCommand" in status, world.board.ticket(token)) == ("Ready", False, None)


def test_an_upload_that_does_not_begin_in_time_fails() -> None:
    world = World()
    world.apply(IMAGE, "up", UPLOAD)
    token = token_of(world)
    world.pass_time(899)
    world.settle()
    assert world.status(IMAGE, "up")["phase"] == "WaitForUserUpload"
    world.board.lose_ticket(token)
    world.settle()
    assert token_of(world) == token, "a lost ticket is opened again under the same URL"
    world.pass_time(2)
    world.settle()
    status = world.status(IMAGE, "up")
    assert (status["phase"], status["failureReason"]) == ("Failed", "UploadTimeout")
    ticket = world.board.ticket(token)
    assert ticket is not None
    assert (ticket.state, ticket.reason) == (UploadState.FAILED, "UploadTimeout"), "whoever comes late is told why"


def test_a_file_that_is_here_is_imported_though_the_board_lost_its_ticket() -> None:
    world = World()
    world.apply(IMAGE, "up", UPLOAD)
    parts = tuple(Part(digest=Digest.of(data), size_bytes=len(data)) for data in (b"first", b"last"))
    world.registry.uploads["vmi/default/up"] = Digest.of(b"manifest"), parts
    world.settle()
    assert world.status(IMAGE, "up")["phase"] == "WaitForUserUpload", "the ticket counts while it is there"
    world.board.lose_ticket(token_of(world))
    world.settle()
    (job,) = world.board.submitted
    assert job.origin.model_dump() == {
        "kind": "blob", "repository": "vmi/default/up", "digest": str(Digest.of(b"manifest")), "size_bytes": 9,
        "verified": False,
    }  # fmt: skip
    ticket = world.board.ticket(token_of(world))
    assert ticket is not None
    assert (ticket.state, ticket.parts) == (UploadState.COMPLETE, parts)


def test_an_upload_whose_uploader_died_waits_then_fails() -> None:
    world = World()
    world.apply(IMAGE, "up", UPLOAD)
    ticket = world.board.ticket(token_of(world))
    assert ticket is not None
    part = Part(digest=Digest.of(b"part"), size_bytes=40)
    update = {
        "state": UploadState.RECEIVING, "received_bytes": 50, "total_bytes": 100, "parts": (part,),
        "updated_at": world.now, "expires_at": world.now + timedelta(seconds=1920),
    }  # fmt: skip
    world.board.update_ticket(ticket.model_copy(update=update), "uploader")
    world.pass_time(119)
    world.settle()
    assert world.status(IMAGE, "up")["phase"] == "Provisioning"
    world.pass_time(2)
    world.settle()
    assert world.status(IMAGE, "up")["phase"] == "WaitForUserUpload"
    condition = world.condition(IMAGE, "up", "Ready")
    assert condition["reason"] == "UploadInterrupted"
    assert "from byte 40" in condition["message"]
    world.pass_time(1800)
    world.settle()
    status = world.status(IMAGE, "up")
    assert (status["phase"], status["failureReason"]) == ("Failed", "UploadTimeout")
    assert world.registry.removed_uploads == [("vmi/default/up", (part,))]


def test_deleting_an_uploaded_image_removes_the_bytes_that_were_sent() -> None:
    world = World()
    world.apply(IMAGE, "up", UPLOAD)
    ticket = world.board.ticket(token_of(world))
    assert ticket is not None
    part = Part(digest=Digest.of(b"part"), size_bytes=4)
    world.board.update_ticket(ticket.model_copy(update={"state": UploadState.COMPLETE, "parts": (part,)}), "uploader")
    world.delete(IMAGE, "up")
    assert world.registry.removed_uploads == [("vmi/default/up", (part,))]
    assert world.board.ticket(ticket.token) is None


def test_a_waiting_attempt_says_what_is_tried_again_and_when() -> None:
    world = World()
    uid = world.apply(IMAGE, "a", HTTP)["metadata"]["uid"]
    message = "attempt 1 of 6 failed, the next one is at 12:00:05 UTC: connection refused"
    at = world.now + timedelta(seconds=300)
    waiting = JobProgress(
        state=JobState.WAITING, reason="SourceUnavailable", message=message, retry_at=at, updated_at=world.now
    )
    world.board.report(uid, waiting)
    world.pass_time(300)
    world.settle()
    ready = world.condition(IMAGE, "a", "Ready")
    assert (world.status(IMAGE, "a")["phase"], ready["reason"], ready["message"]) == (
        "Provisioning",
        "SourceUnavailable",
        message,
    )
    assert len(world.board.submitted) == 1


def test_an_import_that_failed_for_a_cause_that_may_go_away_starts_anew() -> None:
    world = World()
    uid = world.apply(IMAGE, "a", HTTP)["metadata"]["uid"]
    failed = JobProgress(
        state=JobState.FAILED, reason="SourceUnavailable", message="refused", retryable=True, finished_at=world.now
    )
    world.board.report(uid, failed)
    assert world.reconcilers[IMAGE].reconcile(("default", "a")) == 600
    status = world.status(IMAGE, "a")
    assert (status["phase"], status["failureReason"]) == ("Failed", "SourceUnavailable")
    assert status["failureMessage"] == "refused; the import starts anew at 2026-01-01 12:10:00 UTC"
    assert world.condition(IMAGE, "a", "Retrying")["status"] == "True"
    world.pass_time(599)
    world.settle()
    assert len(world.board.submitted) == 1
    world.pass_time(1)
    world.settle()
    status = world.status(IMAGE, "a")
    assert len(world.board.submitted) == 2
    assert (status["phase"], "failureReason" in status) == ("Provisioning", False)
    assert world.condition(IMAGE, "a", "Retrying")["status"] == "False"
    world.board.report(uid, JobProgress(state=JobState.FAILED, reason="InvalidImage", message="no disk"))
    world.settle()
    world.pass_time(10_000)
    world.settle()
    assert world.status(IMAGE, "a")["phase"] == "Failed"
    assert len(world.board.submitted) == 2, "a permanent failure stays one"


def test_an_import_that_is_to_start_anew_does_so_though_the_board_lost_everything() -> None:
    world = World()
    uid = world.apply(IMAGE, "a", HTTP)["metadata"]["uid"]
    failed = JobProgress(state=JobState.FAILED, reason="X", message="x", retryable=True, finished_at=world.now)
    world.board.report(uid, failed)
    world.settle()
    world.board.lose()
    world.settle()
    assert world.status(IMAGE, "a")["phase"] == "Provisioning"
    assert len(world.board.submitted) == 2


def test_jobs_name_their_namespace() -> None:
    world = World()
    world.apply(IMAGE, "a", HTTP)
    world.apply(CLUSTER_IMAGE, "a", HTTP)
    assert [job.namespace for job in world.board.submitted] == ["default", ""]
