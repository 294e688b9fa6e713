"""Imports through a real worker, Redis and registry: what succeeds, what fails, and what survives kill -9."""

import hashlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvcr.artifact.staged import Part, seal
from dvcr.artifact.store import fetch, remove
from dvcr.client.repository import Repository
from dvcr.digest import Digest
from dvcr.jobs.job import BlobOrigin, ImportJob, JobState
from dvcr.jobs.redis import RedisJobBoard
from tests.support.file_server import serving
from tests.support.images import build_image
from tests.support.imports import MIB, World, collect, disk, half_way, sha256
from tests.support.redis import RedisServer
from tests.support.registry import RegistryServer
from tests.support.waiting import eventually
from tests.support.worker import Worker

CHUNK = 4 * MIB
VISIBILITY_TIMEOUT_S = 2


@pytest.fixture
def world(redis_server: RedisServer, fresh_registry: RegistryServer) -> Iterator[World]:
    with serving(b"") as server:
        yield World(RedisJobBoard.from_settings(redis_server.settings()), fresh_registry, server)


@pytest.fixture
def worker(world: World, redis_server: RedisServer, tmp_path: Path) -> Iterator[Worker]:
    with Worker(
        redis_server.url,
        world.registry.url,
        tmp_path / "scratch",
        importer__lease_s=2,
        importer__retries=1,
        importer__attempts=2,
        importer__retry_wait_s=0.2,
        broker__visibility_timeout_s=VISIBILITY_TIMEOUT_S,
    ) as worker:
        yield worker
        eventually(lambda: not worker.scratch.exists() or not list(worker.scratch.iterdir()), "the scratch is empty")


def test_imports_formats_and_only_new_chunks(world: World, worker: Worker, tmp_path: Path) -> None:
    raw = disk()
    world.server.content = build_image(tmp_path, raw, "qcow2")
    job = world.submit("cvmi/debian", sha256(world.server.content))
    assert world.succeeded(job) == raw
    stored = fetch(world.client.repository("cvmi/debian"), "latest").image
    assert stored.source.format == "qcow2"
    assert dict(stored.source.checksums) == sha256(world.server.content)
    once = world.registry.stored_bytes()

    again = world.submit("vmi/default/other")
    assert world.succeeded(again) == raw
    manifests = 64 * 1024
    assert world.registry.stored_bytes() - once < manifests, "the same image again stores no chunk"

    changed = bytearray(raw)
    changed[MIB : 2 * MIB] = random.Random(9).randbytes(MIB)
    world.server.content = bytes(changed)
    job = world.submit("cvmi/debian")
    assert world.succeeded(job) == bytes(changed)
    assert world.registry.stored_bytes() - once < CHUNK + 2 * manifests, "one new megabyte stores one chunk"


def test_failures_have_their_reason_and_leave_nothing(world: World, worker: Worker, tmp_path: Path) -> None:
    raw = disk(data_mib=6, size_mib=8)
    qcow2 = build_image(tmp_path, raw, "qcow2")
    (tmp_path / "base.raw").write_bytes(raw)
    overlay = tmp_path / "overlay.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", tmp_path / "base.raw", overlay], check=True
    )
    cases = [
        ("ChecksumMismatch", qcow2, {"sha256": "0" * 64}, []),
        ("UnknownFormat", b"<!DOCTYPE html><html><body>Not here</body></html>" * 100, {}, []),
        ("TruncatedImage", qcow2[: len(qcow2) * 2 // 3], {}, []),
        ("BackingFileRefused", overlay.read_bytes(), {}, []),
        ("SourceNotFound", qcow2, {}, [404]),
        ("SourceForbidden", qcow2, {}, [403]),
    ]
    for reason, content, checksums, statuses in cases:
        world.server.content, world.server.statuses = content, statuses
        job = world.submit(checksums=checksums)
        progress = world.finished(job)
        assert (progress.state, progress.reason) == (JobState.FAILED, reason), progress.message
        assert progress.message
        assert progress.percent < 100
        world.nothing_left(job)


def test_a_failed_import_leaves_the_chunks_of_other_images_alone(world: World, worker: Worker) -> None:
    raw = disk(data_mib=6, size_mib=8)
    world.server.content = raw
    good = world.submit("cvmi/shared")
    world.succeeded(good)
    bad = world.submit("cvmi/shared", {"sha256": "0" * 64})
    assert world.finished(bad).reason == "ChecksumMismatch"
    collect(world.registry)
    assert world.succeeded(good) == raw


def test_connection_cut_by_the_server(world: World, worker: Worker, tmp_path: Path) -> None:
    raw = disk()
    world.server.content = content = build_image(tmp_path, raw, "qcow2")
    world.server.cuts = [3 * MIB, MIB, 100]
    assert world.succeeded(world.submit(checksums=sha256(content))) == raw
    # What was on its way when the connection was cut may be lost.
    assert len(content) <= world.server.sent_bytes < len(content) + MIB

    world.server.ranges, world.server.cuts = False, [3 * MIB]
    job = world.submit("cvmi/no-ranges", checksums=sha256(content))
    assert world.succeeded(job) == raw

    remove(world.client.repository(job.repository), fetch(world.client.repository(job.repository), job.tag).digest)
    world.server.cuts = [3 * MIB] * 9
    failed = world.submit("cvmi/always-cut")
    assert world.finished(failed).reason == "SourceInterrupted"
    assert world.client.repository("cvmi/always-cut").tags() == []
    world.board.forget(failed.id)  # what was fetched is kept for another attempt until nobody wants it


@pytest.mark.parametrize("victim", ["pool child", "whole worker"])
def test_killed_half_way_is_delivered_again_and_finishes(
    world: World, worker: Worker, victim: str, tmp_path: Path
) -> None:
    raw = disk(data_mib=20)
    world.server.content = content = build_image(tmp_path, raw, "qcow2")
    world.server.gate_after, world.server.gate = 12 * MIB, threading.Event()
    job = world.submit(checksums=sha256(content))
    percent = half_way(world, job)
    if victim == "whole worker":
        worker.kill()
        world.server.gate.set()
        worker.start()
    else:
        for child in worker.children():
            os.kill(child, signal.SIGKILL)
        world.server.gate.set()
    assert world.succeeded(job, timeout_s=60) == raw
    assert percent > 0


def test_long_import_runs_once_though_it_is_delivered_twice(world: World, worker: Worker) -> None:
    world.server.content = raw = disk(data_mib=20)
    world.server.gate_after, world.server.gate = 12 * MIB, threading.Event()
    job = world.submit()
    half_way(world, job)
    world.board.submit(job)  # what a controller does that grew impatient, and what Redis does after its timeout
    visibility_timeouts = 2
    until = time.monotonic() + visibility_timeouts * VISIBILITY_TIMEOUT_S
    eventually(lambda: time.monotonic() > until, "Celery's message was delivered again")
    assert len(world.server.requests) == 1
    world.server.gate.set()
    assert world.succeeded(job) == raw
    assert len(world.server.requests) == 1


def test_forgotten_import_stops_and_leaves_nothing(world: World, worker: Worker) -> None:
    world.server.content = disk(data_mib=20)
    world.server.gate_after, world.server.gate = 12 * MIB, threading.Event()
    job = world.submit()
    half_way(world, job)
    world.board.forget(job.id)
    eventually(lambda: not list(worker.scratch.iterdir()), "its scratch is gone")
    assert world.board.progress(job.id) is None
    world.nothing_left(job)


def test_artifact_that_is_there_succeeds_at_once(world: World, worker: Worker) -> None:
    world.server.content = disk(data_mib=2, size_mib=4)
    job = world.submit()
    world.succeeded(job)
    world.board.submit(job)
    world.succeeded(job)
    assert len(world.server.requests) == 1


def upload(repository: Repository, content: bytes, part_bytes: int) -> BlobOrigin:
    """What the uploader leaves."""
    parts = []
    for offset in range(0, len(content), part_bytes):
        piece = content[offset : offset + part_bytes]
        parts.append(Part(digest=Digest.of(piece), size_bytes=len(piece)))
        repository.push_blob(parts[-1].digest, piece)
    return BlobOrigin(repository=repository.name, digest=str(seal(repository, parts)), size_bytes=len(content))


def test_uploaded_parts(world: World, worker: Worker, tmp_path: Path) -> None:
    raw = disk(data_mib=6, size_mib=8)
    content = build_image(tmp_path, raw, "qcow2")
    repository = world.client.repository("vmi/default/uploaded")
    first = Digest.of(content[:700_000])
    checksums = {**sha256(content), "md5": hashlib.md5(content).hexdigest()}
    origin = upload(repository, content, 700_000)
    job = ImportJob(id="up-1", repository=repository.name, tag="up-1", origin=origin, checksums=checksums)
    world.board.submit(job)
    assert world.succeeded(job) == raw
    eventually(lambda: not repository.has_blob(first), "the parts were removed")
    assert repository.tags() == ["latest", "up-1"]

    origin = upload(repository, content, 700_000)
    wrong = job.model_copy(update={"id": "up-2", "tag": "up-2", "origin": origin, "checksums": {"md5": "0" * 32}})
    world.board.submit(wrong)
    assert world.finished(wrong).reason == "ChecksumMismatch"
    eventually(lambda: not repository.has_blob(first), "the parts were removed")
    assert world.succeeded(job) == raw


def test_uploaded_part_that_is_itself_a_chunk_stays(world: World, worker: Worker) -> None:
    content = disk(3, data_mib=3, size_mib=3)  # stored uncompressed, as one chunk with the digest of the file
    repository = world.client.repository("vmi/default/tiny")
    origin = upload(repository, content, len(content))
    job = ImportJob(id="tiny", repository=repository.name, tag="tiny", origin=origin)
    world.board.submit(job)
    assert world.succeeded(job) == content
    eventually(lambda: repository.tags() == ["latest", "tiny"], "the upload's manifest was removed")
    assert repository.has_blob(Digest.of(content))


def test_worker_stops_at_once_on_sigterm_and_the_next_one_goes_on(world: World, worker: Worker) -> None:
    world.server.content = raw = disk(data_mib=20)
    world.server.gate_after, world.server.gate = 12 * MIB, threading.Event()
    job = world.submit()
    half_way(world, job)
    assert worker.stop() == 0
    world.server.gate.set()
    worker.start()
    assert world.succeeded(job, timeout_s=60) == raw


def test_worker_ends_though_a_child_of_it_hangs(world: World, worker: Worker) -> None:
    world.server.content = disk(data_mib=20)
    world.server.gate_after, world.server.gate = 12 * MIB, threading.Event()
    job = world.submit()
    half_way(world, job)
    for child in worker.children():
        os.kill(child, signal.SIGSTOP)
    assert worker.stop() == 1
    world.server.gate.set()
    worker.start()
    assert world.succeeded(job, timeout_s=60) == world.server.content
