"""What dies under an import, and what becomes of it: every import ends, once, and nothing is left behind."""

import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvcr.errors import DvcrError
from dvcr.jobs.job import BlobOrigin, ContainerOrigin, ImportJob, JobState, Origin
from dvcr.jobs.redis import RedisJobBoard
from tests.support.container_images import plain as plain_layer
from tests.support.container_images import push_image, tar
from tests.support.file_server import serving
from tests.support.images import build_image
from tests.support.imports import MIB, World, collect, disk, half_way
from tests.support.redis import RedisServer
from tests.support.registry import RegistryServer
from tests.support.stalling_proxy import StallingProxy, stalling_proxy
from tests.support.waiting import eventually
from tests.support.worker import Worker, children

LEASE_S = 1.5
LOOK_S = LEASE_S / 3


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A Redis of the test's own, which keeps what it is told if the test's parameter says so."""
    server = RedisServer(tmp_path_factory.mktemp("r"), persistent=getattr(request, "param", False))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def world(redis: RedisServer, fresh_registry: RegistryServer) -> Iterator[World]:
    with serving(b"") as server:
        yield World(RedisJobBoard.from_settings(redis.settings()), fresh_registry, server)


@pytest.fixture
def worker(world: World, redis: RedisServer, tmp_path: Path) -> Iterator[Worker]:
    with new_worker(world, redis, tmp_path) as worker:
        yield worker
        eventually(lambda: not worker.scratch.exists() or not list(worker.scratch.iterdir()), "the scratch is empty")


def new_worker(world: World, redis: RedisServer, tmp_path: Path, registry_url: str = "", **settings: object) -> Worker:
    return Worker(
        redis.url,
        registry_url or world.registry.url,
        tmp_path / "scratch",
        importer__lease_s=LEASE_S,
        importer__concurrency=1,
        importer__retries=0,
        importer__attempts=5,
        importer__retry_wait_s=0.3,
        broker__visibility_timeout_s=2,
        **settings,
    )


def gated(world: World, tmp_path: Path, image_format: str = "qcow2") -> bytes:
    """Let the server stop in the middle of an image; its disk."""
    raw = disk(data_mib=20)
    world.server.content = build_image(tmp_path, raw, image_format)
    world.server.gate_after, world.server.gate = 12 * MIB, threading.Event()
    return raw


def descendants(pid: int) -> list[int]:
    # Of each thread: whatever a thread starts is a child of that thread.
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    found = [int(word) for text in lists for word in text.split()]
    return found + [each for child in found for each in descendants(child)]


def qemu_imgs(worker: Worker) -> list[int]:
    def name(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return ""

    return [pid for pid in descendants(worker.pid) if name(pid) == "qemu-img"]


def state(world: World, job: ImportJob) -> JobState | None:
    progress = world.board.progress(job.id)
    return progress.state if progress else None


def follow(world: World, job: ImportJob) -> None:
    """What the controller does: send a job again of which the board knows nothing."""
    if world.board.progress(job.id) is None:
        world.board.submit(job)


def test_dead_worker_is_replaced_as_soon_as_its_lease_ends(
    world: World, worker: Worker, redis: RedisServer, tmp_path: Path
) -> None:
    raw = gated(world, tmp_path)
    job = world.submit()
    half_way(world, job)
    with new_worker(world, redis, tmp_path):
        before = len(world.server.requests)
        worker.kill()
        died = time.monotonic()
        eventually(lambda: len(world.server.requests) > before, "the import was taken over")
        took_s = time.monotonic() - died
        # The rest is for a machine under load. By default: a lease of 15 s, and a look every 5 s.
        assert took_s < LEASE_S + LOOK_S + 5
        world.server.gate.set()
        assert world.succeeded(job) == raw


def test_only_the_parent_of_a_worker_is_killed(world: World, worker: Worker, tmp_path: Path) -> None:
    raw = gated(world, tmp_path)
    job = world.submit()
    half_way(world, job)
    pids = descendants(worker.pid)
    os.kill(worker.pid, signal.SIGKILL)
    world.server.gate.set()
    worker._process.wait()  # type: ignore[union-attr]
    worker.start()
    assert world.succeeded(job) == raw
    eventually(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], "no process is left")


def test_job_that_kills_its_workers_fails_and_others_go_on(world: World, worker: Worker, tmp_path: Path) -> None:
    gated(world, tmp_path)
    job = world.submit()
    for attempt in range(1, 4):
        eventually(lambda n=attempt: world.server.downloads == n, "the job runs")  # type: ignore[misc]
        eventually(lambda: children(worker.pid), "there is a child")
        for child in children(worker.pid):
            os.kill(child, signal.SIGKILL)
    progress = world.finished(job)
    assert (progress.state, progress.reason) == (JobState.FAILED, "WorkerCrashed")
    assert world.server.downloads == 3
    world.nothing_left(job)
    world.board.forget(job.id)
    world.server.gate.set()
    world.server.content = raw = disk(2, 2, 4)
    assert world.succeeded(world.submit()) == raw


def test_qemu_img_is_killed(world: World, worker: Worker, tmp_path: Path) -> None:
    """As by the system, short of memory: that is no fault of the image's."""
    raw = gated(world, tmp_path, "vdi")
    job = world.submit()
    eventually(lambda: qemu_imgs(worker), "qemu-img runs")
    for pid in qemu_imgs(worker):
        os.kill(pid, signal.SIGKILL)
    waiting = "where memory is short"
    eventually(lambda: waiting in getattr(world.board.progress(job.id), "message", ""), "the cause is told")
    world.server.gate.set()
    assert world.succeeded(job) == raw


def test_registry_is_killed_and_comes_back(world: World, worker: Worker, tmp_path: Path) -> None:
    raw = gated(world, tmp_path)
    job = world.submit()
    half_way(world, job)
    world.registry.kill()
    world.server.gate.set()
    time_out = time.monotonic() + 20
    while (progress := world.board.progress(job.id)) and progress.state is not JobState.WAITING:
        assert progress.state is JobState.RUNNING
        assert time.monotonic() < time_out
        time.sleep(0.02)
    assert progress is not None
    assert progress.message.startswith("attempt 1 of 5 failed, the next one is at ")
    world.registry.start_at(int(world.registry.url.rpartition(":")[2]))
    assert world.succeeded(job) == raw
    world.board.forget(job.id)


def test_what_was_fetched_outlives_a_registry_that_is_away(world: World, worker: Worker, tmp_path: Path) -> None:
    raw = gated(world, tmp_path, "vdi")
    world.server.gate_after = 19 * MIB
    job = world.submit()
    eventually(lambda: [f for f in worker.scratch.glob("*.data") if f.stat().st_size >= 18 * MIB], "it is spooled")
    world.registry.kill()
    world.server.gate.set()
    eventually(lambda: state(world, job) is JobState.WAITING, "another attempt is waited for", timeout_s=60)
    restart(world.registry)
    assert world.succeeded(job, 60) == raw
    assert world.server.downloads == 1, "nothing is fetched twice"


@pytest.mark.parametrize(
    ("redis", "fault"),
    [(True, "restart"), (False, "restart"), (False, "flush")],
    indirect=["redis"],
    ids=["restart of one that persists", "restart of one that does not", "flush"],
)
def test_redis_fails_under_a_running_and_a_waiting_import(
    world: World, worker: Worker, redis: RedisServer, fault: str, tmp_path: Path
) -> None:
    raw = gated(world, tmp_path)
    running = world.submit()
    half_way(world, running)
    queued = world.submit()
    if fault == "flush":
        redis.client().flushall()
    else:
        redis.stop()
        with pytest.raises(DvcrError) as caught:
            world.submit()
        assert (caught.value.reason, caught.value.retryable) == ("BrokerUnavailable", True)
        redis.start()
    eventually(lambda: world.board.progress(running.id) is not None, "the worker tells of it again")
    follow(world, queued)
    world.server.gate.set()
    assert world.succeeded(running) == raw
    assert world.succeeded(queued) == raw
    assert world.server.downloads == 2, "each was run once"


@pytest.mark.parametrize("when", ["converting", "queued", "waiting for another attempt"])
def test_deleted_import_leaves_nothing(world: World, worker: Worker, when: str, tmp_path: Path) -> None:
    gated(world, tmp_path, "vdi")
    first = world.submit()
    half_way(world, first)
    if when == "converting":
        eventually(lambda: qemu_imgs(worker), "qemu-img runs")
    if when == "queued":
        world.board.forget(world.submit().id)
    if when == "waiting for another attempt":
        world.board.forget(first.id)
        world.server.statuses = [503] * 9
        first = world.submit()
        eventually(lambda: state(world, first) is JobState.WAITING, "the job waits")
    world.board.forget(first.id)
    eventually(lambda: not qemu_imgs(worker), "qemu-img is gone", timeout_s=5)
    eventually(lambda: not list(worker.scratch.iterdir()), "the scratch is empty", timeout_s=5)
    world.server.gate.set()
    asked = len(world.server.requests)
    assert world.sessions() == [], "none waits for its expiry"
    world.nothing_left(first)
    assert world.board.wake() == 0
    assert len(world.server.requests) == asked


def test_source_that_fails_for_a_while_is_asked_again(world: World, worker: Worker) -> None:
    world.server.content = raw = disk(2, 2, 4)
    world.server.statuses = [503, 503]
    job = world.submit()
    assert world.succeeded(job) == raw
    assert len(world.server.requests) == 3
    world.server.statuses = [503] * 9
    progress = world.finished(failed := world.submit())
    assert (progress.state, progress.reason, progress.retryable) == (JobState.FAILED, "SourceUnavailable", True)
    assert len(world.server.requests) == 3 + 5
    world.board.forget(failed.id)


@pytest.fixture
def registry_proxy(world: World) -> Iterator[StallingProxy]:
    with stalling_proxy(world.registry.address) as proxy:
        yield proxy


@pytest.fixture
def distant(world: World, redis: RedisServer, registry_proxy: StallingProxy, tmp_path: Path) -> Iterator[Worker]:
    """A worker that reaches the registry through the proxy."""
    plain = json.dumps([registry_proxy.address])
    url = f"http://{registry_proxy.address}"
    with new_worker(world, redis, tmp_path, url, importer__plain_http_registries=plain) as worker:
        yield worker
        eventually(lambda: not worker.scratch.exists() or not list(worker.scratch.iterdir()), "the scratch is empty")


def origin_of(kind: str, world: World, proxy: StallingProxy, content: bytes) -> Origin:
    if kind == "upload":
        return world.uploaded(content)
    repository = world.client.repository(f"containers/{kind}")
    push_image(repository, [plain_layer(tar(("disk/a.qcow2", content)))])
    return ContainerOrigin(image=f"{proxy.address}/{repository.name}:latest")


def restart(registry: RegistryServer) -> None:
    registry.start_at(int(registry.url.rpartition(":")[2]))


@pytest.mark.parametrize("victim", ["worker", "child", "registry"])
@pytest.mark.parametrize("kind", ["upload", "container"])
def test_killed_while_it_reads_what_is_in_a_registry(
    world: World, distant: Worker, registry_proxy: StallingProxy, kind: str, victim: str, tmp_path: Path
) -> None:
    raw = disk(data_mib=20)
    origin = origin_of(kind, world, registry_proxy, build_image(tmp_path, raw, "qcow2"))
    registry_proxy.stall_after(8 * MIB)
    job = world.submit(origin=origin)
    assert registry_proxy.silent.wait(60)
    match victim:
        case "worker":
            distant.kill()
        case "child":
            for child in children(distant.pid):
                os.kill(child, signal.SIGKILL)
        case "registry":
            world.registry.kill()
    registry_proxy.resume()
    if victim == "worker":
        distant.start()
    if victim == "registry":
        restart(world.registry)
    assert world.succeeded(job, 90) == raw
    if isinstance(origin, BlobOrigin):
        assert world.client.repository(origin.repository).tags() == [], "the upload is gone"
    collect(world.registry)
    assert world.sessions() == []


@pytest.mark.parametrize(
    "moment", ["PUT /v2/{image}/manifests/latest", "PUT /v2/{image}/manifests/{tag}", "DELETE /v2/"]
)
def test_registry_is_killed_while_the_image_is_published_and_the_upload_removed(
    world: World, distant: Worker, registry_proxy: StallingProxy, moment: str, tmp_path: Path
) -> None:
    raw = disk(data_mib=2, size_mib=4)
    origin = world.uploaded(build_image(tmp_path, raw, "qcow2"))
    name, tag = f"cvmi/{uuid.uuid4().hex}", str(uuid.uuid4())
    registry_proxy.stall_before(moment.format(image=name, tag=tag).encode())
    job = ImportJob(id=tag, repository=name, tag=tag, origin=origin)
    world.board.submit(job)
    assert registry_proxy.silent.wait(60)
    world.registry.kill()
    registry_proxy.resume()
    restart(world.registry)
    assert world.succeeded(job, 90) == raw
    assert world.client.repository(name).tags() == sorted(["latest", tag])
    assert world.client.repository(origin.repository).tags() == [], "the upload is gone"
    collect(world.registry)
    assert world.sessions() == []


def test_registry_is_away_for_long_while_the_upload_is_removed(
    world: World, distant: Worker, registry_proxy: StallingProxy, tmp_path: Path
) -> None:
    raw = disk(data_mib=2, size_mib=4)
    origin = world.uploaded(build_image(tmp_path, raw, "qcow2"))
    registry_proxy.stall_before(b"DELETE /v2/")
    job = world.submit(origin=origin)
    assert registry_proxy.silent.wait(60)
    world.registry.kill()
    registry_proxy.resume()
    eventually(lambda: state(world, job) is JobState.WAITING, "it is tried again later", timeout_s=60)
    restart(world.registry)
    assert world.succeeded(job, 60) == raw
    assert world.client.repository(origin.repository).tags() == [], "the upload is gone"


@pytest.mark.parametrize("kind", ["http", "upload", "container"])
def test_a_registry_that_hangs_does_not_keep_a_deleted_import(
    world: World, distant: Worker, registry_proxy: StallingProxy, kind: str, tmp_path: Path
) -> None:
    raw = disk(data_mib=20)
    content = build_image(tmp_path, raw, "qcow2")
    if kind == "http":
        world.server.content = content
        registry_proxy.stall_before(b"POST /v2/cvmi/")
    job = world.submit(origin=None if kind == "http" else origin_of(kind, world, registry_proxy, content))
    if kind != "http":
        registry_proxy.stall_after(8 * MIB)
    assert registry_proxy.silent.wait(60)
    world.board.forget(job.id)
    # The worker lets go of it at once, and looks for some seconds whether there is an image to be removed.
    world.server.content = raw
    following = world.submit()
    eventually(lambda: state(world, following) is JobState.RUNNING, "the worker is free again", timeout_s=30)
    registry_proxy.resume()
    assert world.succeeded(following, 60) == raw
    assert world.client.repository(job.repository).tags() == []


def says(world: World, job: ImportJob, beginning: str) -> bool:
    progress = world.board.progress(job.id)
    return progress is not None and progress.message.startswith(beginning)


def test_running_import_says_what_it_waits_for(world: World, worker: Worker, tmp_path: Path) -> None:
    raw = gated(world, tmp_path)
    job = world.submit()
    eventually(lambda: says(world, job, "no bytes from the source for "), "it says that no bytes come", timeout_s=30)
    world.server.gate.set()
    assert world.succeeded(job) == raw


def test_import_whose_source_registry_hangs_says_so(world: World, redis: RedisServer, tmp_path: Path) -> None:
    raw = disk(data_mib=2, size_mib=4)
    with stalling_proxy(world.registry.address) as proxy:
        origin = origin_of("container", world, proxy, raw)
        with new_worker(world, redis, tmp_path, importer__plain_http_registries=json.dumps([proxy.address])):
            proxy.stall()
            job = world.submit(origin=origin)
            eventually(lambda: says(world, job, "no answer from the source for "), "it says that", timeout_s=30)
            proxy.resume()
            assert world.succeeded(job) == raw
