"""Disks of which the registry has the content: how fast they are read, and how soon they stand alone.

Reads are those of an NBD client at QEMU's own server, on the node that a guest would have (no guest: its emulated
processors would be measured), beside the same client on a qcow2 that stands alone.

- First reads: nothing of the image was read before; its chunks are on the node, and beside the reads nothing is copied.
- Reads again: the same once more, as a machine has it, which copies the image into the disk at the same time.
- Cold: with an empty chunk cache, sequentially, beside as many clients as read ahead, which fetch the same blobs and
  drop them. As the guest sees it, bytes of the disk; as stored, those of the blobs.
- Standing alone: the copy of an image into a disk, beside `qemu-img convert` to qcow2 from the same data in a plain
  qcow2, and in one compressed with zstd, as the chunks are. All are synced; one figure of theirs is before the sync.
"""

import asyncio
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from bench.disks import Shape
from bench.processes import MIB
from bench.report import Row
from controller.launcher.fill import fill, open_disk
from controller.launcher.images import READ_AHEAD_CHUNKS
from controller.launcher.spec import DiskSpec, ImageReference
from converter.nbd.client import NbdClient
from dvcr.artifact.store import StoredImage
from dvcr.client.registry import RegistryClient
from dvcr.config import Settings

RANDOM_BYTES, RANDOM_READS = 65536, 2000
SYNCED, ZSTD, UNSYNCED = (
    "qemu-img convert of a plain qcow2",
    "the same of one compressed with zstd",
    "the first without sync",
)

Read = Callable[[Path, str, StoredImage, int], list[float]]
"""Reads an export at a socket so many times; MB/s of each."""


class DiskCopies:
    """The rounds on one image, and the rows that come of them."""

    def __init__(self, stored: StoredImage, settings: Settings, folder: Path, rounds: int) -> None:
        self._stored = stored
        self._settings = settings
        self._folder = folder
        self._rounds = rounds
        image = ImageReference(repository=stored.repository, digest=str(stored.digest))
        self._spec = DiskSpec(name="disk", kind="disk", path="/disk.qcow2", image=image)
        self.rows: list[Row] = []

    def reads(self) -> None:
        """Through the image, beside a disk that stands alone, and the registry itself."""
        alone = self._folder / "alone"
        asyncio.run(fill(self._spec, self._settings, alone, lambda _: None))
        for kind, read in (("sequential", sequential), ("random", random_reads)):
            first, again, local = [], [], []
            for number in range(self._rounds):
                local += asyncio.run(self._read(alone, read, times=2))[1:]
                first += asyncio.run(self._read(self._folder / f"{kind}-first-{number}", read))
                twice = self._folder / f"{kind}-again-{number}"
                again += asyncio.run(self._read(twice, read, times=2, copying=True))[1:]
            say(f"{kind}: {middle(first)} MB/s first, {middle(again)} again, {middle(local)} alone")
            peers = {"a qcow2 that stands alone": middle(local)}
            self.rows.append(Row(f"{kind} reads through the image, again", "MB/s", middle(again), 0.7, peers, True))
            self.rows.append(Row(f"{kind} reads through the image, first", "MB/s", middle(first), 0.7, peers, True))
        ours, bare = [], []
        for number in range(self._rounds):
            bare.append(self._fetch_all())
            shutil.rmtree(self._settings.launcher.cache_dir)
            ours += asyncio.run(self._read(self._folder / f"cold-{number}", sequential))
        as_stored = [speed * self._stored.image.stored_bytes / data_bytes(self._stored) for speed in ours]
        say(f"cold: {middle(ours)} MB/s, as stored {middle(as_stored)}, the registry {middle(bare)}")
        peers = {"the registry": middle(bare)}
        self.rows.append(Row("sequential reads, cold", "MB/s", middle(ours), 0.5, peers, True))
        self.rows.append(Row("sequential reads, cold, as stored", "MB/s", middle(as_stored), 0.5, peers, True))

    def standing_alone(self, shape: Shape) -> None:
        """The copy, warm and cold; the shape is that of the image."""
        plain = shape.file()
        packed = plain.with_suffix(".zstd.qcow2")
        if not packed.exists():
            options = ["-c", "-o", "compression_type=zstd"]
            subprocess.run(["qemu-img", "convert", "-O", "qcow2", *options, plain, packed], check=True)
        figures: dict[str, list[float]] = {"cold": [], "warm": [], SYNCED: [], ZSTD: [], UNSYNCED: []}
        for number in range(self._rounds):
            shutil.rmtree(self._settings.launcher.cache_dir, ignore_errors=True)
            for kind in ("cold", "warm"):
                os.sync()
                root = self._folder / f"alone-{kind}-{number}"
                begin = time.perf_counter()
                asyncio.run(fill(self._spec, self._settings, root, lambda _: None))
                figures[kind].append(time.perf_counter() - begin)
                shutil.rmtree(root)
            unsynced, synced = self._convert(plain)
            figures[UNSYNCED].append(unsynced)
            figures[SYNCED].append(synced)
            figures[ZSTD].append(self._convert(packed)[1])
        peers = {kind: middle(figures[kind]) for kind in (SYNCED, ZSTD, UNSYNCED)}
        for kind in ("warm", "cold"):
            title = f"standing alone, {shape.data_bytes / 2**30:g} GiB of data, {kind}"
            say(f"{title}: {middle(figures[kind])} s; {peers}")
            self.rows.append(Row(title, "s", middle(figures[kind]), 0.833, peers))

    def _convert(self, source: Path) -> tuple[float, float]:
        """Seconds to a qcow2, before and after it is synced."""
        os.sync()
        target = self._folder / "converted.qcow2"
        begin = time.perf_counter()
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", source, target], check=True)
        unsynced = time.perf_counter() - begin
        with target.open("rb+") as file:
            os.fsync(file.fileno())
        synced = time.perf_counter() - begin
        target.unlink()
        return unsynced, synced

    async def _read(self, root: Path, read: Read, times: int = 1, *, copying: bool = False) -> list[float]:
        async with (
            open_disk(self._spec, self._settings, root) as opened,
            opened.copies.server.serving(opened.disk.drive.node) as (socket, export),
        ):
            if copying:
                opened.copies.start(opened.disk)
            # Another process, as a guest is: threads of this one serve the image.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                return await asyncio.get_running_loop().run_in_executor(pool, read, socket, export, self._stored, times)

    def _fetch_all(self) -> float:
        """MB/s of the image's blobs, dropped."""
        repository = RegistryClient.from_settings(self._settings.client).repository(self._stored.repository)
        begin = time.perf_counter()
        with ThreadPoolExecutor(READ_AHEAD_CHUNKS) as pool:
            chunks = self._stored.image.chunks
            for _ in pool.map(lambda chunk: len(repository.read_blob(chunk.descriptor.digest)), chunks):
                pass
        return self._stored.image.stored_bytes / 1e6 / (time.perf_counter() - begin)


def sequential(socket: Path, export: str, stored: StoredImage, times: int) -> list[float]:
    """MB/s through the image's chunks from first to last."""
    speeds = []
    with NbdClient.connect(socket, export) as client:
        for _ in range(times):
            begin = time.perf_counter()
            for chunk in stored.image.chunks:
                offset, end = chunk.index * stored.image.chunk_size_bytes, stored.image.chunk_length(chunk.index)
                for at in range(0, end, MIB):
                    client.read(offset + at, min(MIB, end - at))
            speeds.append(data_bytes(stored) / 1e6 / (time.perf_counter() - begin))
    return speeds


def random_reads(socket: Path, export: str, stored: StoredImage, times: int) -> list[float]:
    """MB/s of small reads all over the image's chunks, each time the same."""
    speeds = []
    with NbdClient.connect(socket, export) as client:
        for _ in range(times):
            draw = random.Random(1)
            begin = time.perf_counter()
            for _ in range(RANDOM_READS):
                chunk = draw.choice(stored.image.chunks)
                offset = draw.randrange((stored.image.chunk_length(chunk.index) - RANDOM_BYTES) // 4096) * 4096
                client.read(chunk.index * stored.image.chunk_size_bytes + offset, RANDOM_BYTES)
            speeds.append(RANDOM_READS * RANDOM_BYTES / 1e6 / (time.perf_counter() - begin))
    return speeds


def data_bytes(stored: StoredImage) -> int:
    """Bytes of the disk that the image's chunks hold."""
    return sum(stored.image.chunk_length(chunk.index) for chunk in stored.image.chunks)


def middle(values: Sequence[float]) -> float:
    """The median, in hundredths."""
    return round(statistics.median(values), 2)


def say(line: str) -> None:
    """Tell how far the run is."""
    print(line, flush=True)
