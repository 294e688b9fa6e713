"""Imports through a real Redis, registry and worker, and what they leave."""

import hashlib
import os
import random
import struct
import subprocess
import sys
import uuid
from pathlib import Path

from converter.nbd.image import ImageExport
from dvcr.artifact.reader import ImageReader
from dvcr.artifact.staged import Part, seal
from dvcr.artifact.store import fetch
from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings
from dvcr.digest import Digest
from dvcr.jobs.job import BlobOrigin, HttpOrigin, ImportJob, JobProgress, JobState, Origin
from dvcr.jobs.redis import RedisJobBoard
from tests.support.file_server import FileServer
from tests.support.registry import RegistryServer
from tests.support.waiting import eventually

MIB = 2**20


class World:
    """Board, registry and a file server, and imports through the worker."""

    def __init__(self, board: RedisJobBoard, registry: RegistryServer, server: FileServer) -> None:
        self.board = board
        self.registry = registry
        self.server = server
        self.client = RegistryClient.from_settings(ClientSettings(url=registry.url))

    def submit(
        self,
        repository: str = "",
        checksums: dict[str, str] | None = None,
        url: str = "",
        origin: Origin | None = None,
    ) -> ImportJob:
        uid = str(uuid.uuid4())
        job = ImportJob(
            id=uid,
            repository=repository or f"cvmi/{uid}",
            tag=uid,
            origin=origin or HttpOrigin(url=url or self.server.url),
            checksums=checksums or {},
        )
        self.board.submit(job)
        return job

    def uploaded(self, content: bytes) -> BlobOrigin:
        """The content as the uploader leaves it, in parts, in the repository of an image to come."""
        repository = self.client.repository(f"vmi/default/{uuid.uuid4().hex}")
        parts = []
        for at in range(0, len(content), 4 * MIB):
            data = content[at : at + 4 * MIB]
            parts.append(Part(digest=Digest.of(data), size_bytes=len(data)))
            repository.push_blob(parts[-1].digest, data)
        digest = seal(repository, parts)
        return BlobOrigin(repository=repository.name, digest=str(digest), size_bytes=len(content))

    def finished(self, job: ImportJob, timeout_s: float = 30) -> JobProgress:
        def over() -> bool:
            progress = self.board.progress(job.id)
            return progress is not None and progress.state in (JobState.SUCCEEDED, JobState.FAILED)

        eventually(over, f"the job ends: {self.board.progress(job.id)}", timeout_s)
        progress = self.board.progress(job.id)
        assert progress is not None
        return progress

    def succeeded(self, job: ImportJob, timeout_s: float = 30) -> bytes:
        """The disk that the job made."""
        progress = self.finished(job, timeout_s)
        assert (progress.state, progress.message, progress.percent) == (JobState.SUCCEEDED, "", 100)
        repository = self.client.repository(job.repository)
        stored = fetch(repository, job.tag)
        with ImageReader(repository, stored.image) as reader:
            return bytes(ImageExport(reader).read(0, stored.image.virtual_size_bytes))

    def sessions(self) -> list[Path]:
        """Files of upload sessions in the registry's store."""
        folders = self.registry.root / ".uploads", self.registry.root / "repositories"
        return [
            path
            for folder in folders
            for path in folder.rglob("*")
            if path.is_file() and (folder is folders[0] or "uploads" in path.parts)
        ]

    def nothing_left(self, job: ImportJob) -> None:
        """Neither tags nor links nor blobs nor upload sessions, after garbage collection."""
        assert self.client.repository(job.repository).tags() == []
        collect(self.registry)
        links = [path for path in (self.registry.root / "repositories" / job.repository).rglob("*") if path.is_file()]
        assert links == []
        assert self.sessions() == []
        assert self.registry.stored_bytes() == 0


def collect(registry: RegistryServer) -> None:
    """`dvcr gc --grace 0`, for which every upload session has expired."""
    code = "from dvcr.cli import main, serve; serve.register(main.app); main.app()"
    environment = os.environ | {
        "DVCR__STORAGE__FILESYSTEM__ROOT": str(registry.root),
        "DVCR__REGISTRY__UPLOAD_EXPIRY_S": "0.001",
    }
    subprocess.run([sys.executable, "-c", code, "gc", "--grace", "0"], env=environment, check=True, capture_output=True)


def disk(seed: int = 1, data_mib: int = 10, size_mib: int = 24) -> bytes:
    """A raw disk with a partition table, random data and a hole."""
    data = random.Random(seed).randbytes(data_mib * MIB - 512)
    half = len(data) // 2
    partition = struct.pack("<B3sB3sII", 0x80, b"", 0x83, b"", 2048, size_mib * MIB // 512 - 2048)
    record = (bytes(446) + partition).ljust(510, b"\0") + b"\x55\xaa"
    return record + data[:half] + bytes((size_mib - data_mib) * MIB) + data[half:]


def sha256(content: bytes) -> dict[str, str]:
    return {"sha256": hashlib.sha256(content).hexdigest()}


def half_way(world: World, job: ImportJob) -> int:
    """Wait until the job has told some progress."""

    def begun() -> bool:
        progress = world.board.progress(job.id)
        return progress is not None and progress.percent > 0

    eventually(begun, "the import is half-way")
    progress = world.board.progress(job.id)
    assert progress is not None
    assert progress.state is JobState.RUNNING
    return progress.percent
