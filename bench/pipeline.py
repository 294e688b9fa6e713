"""Images over HTTP to Ready, beside what users do today. Writes bench/results/pipeline.json.

Run it by `make bench-pipeline`, or `python -m bench.pipeline --quick` (an eighth of the bytes, nothing written). The
images are described in bench/images.py; they are read from the page cache. Ours is the time from submitting the job
until it has succeeded, through Redis, a real worker and a real registry with an empty store, whose bytes are durable
by then. Beside it, each in its own round so that nothing else runs:

    (a) curl, then qemu-img convert -O raw (raw.xz: xz -d -T0); told a second time with a `sync` of its file
    (b) curl, qemu-img convert -c -O qcow2, tar, skopeo copy into docker-registry (Debian)

Medians over the rounds are told; what takes more than half a minute is run once, and so are the plain raw image, the
slow link, the later versions and the four at once. Memory is the sum of the RSS of the worker's processes, or of the
child that runs one import; scratch is what files in the scratch folder take on disk, named or not. Both are sampled
twenty times a second, and the worst round counts. No format may take scratch: qemu-img puts the tables of
a streamOptimized vmdk in front.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import peers
from bench.images import FULL, QUICK, Images
from bench.processes import CACHE, Peaks, child, cpu_seconds, peaks
from bench.registry import debian_registry, peer_command, started
from bench.report import Row, machine, show, write
from dvcr.config import BrokerSettings
from dvcr.jobs.job import HttpOrigin, ImportJob, JobState
from dvcr.jobs.redis import RedisJobBoard

LINK_BYTES_S = 100_000_000
ONCE_S = 30
PIECE_BYTES = 16 * 2**20
FORMATS = {"disk.qcow2": "qcow2", "compressed.qcow2": "qcow2", "disk.raw.xz": "raw.xz", "disk.vmdk": "vmdk"}
TO_RAW, SYNCED = "curl + qemu-img convert -O raw", "the same + sync of the file"
CONTAINER_DISK = "curl + qemu-img convert -c + tar + skopeo copy"


@dataclass
class Product:
    """A worker, a registry and Redis, all new."""

    board: RedisJobBoard
    worker_pid: int
    registry_pid: int
    store: Path
    scratch: Path

    def stored_bytes(self) -> int:
        """Bytes that the registry's folder takes."""
        return int(subprocess.check_output(["du", "-s", "--block-size=1", self.store]).split()[0])

    def blobs(self) -> int:
        """Files in the registry's folder that are as large as a chunk may be."""
        return sum(1 for file in self.store.rglob("*") if file.is_file() and file.stat().st_size > 4096)

    def import_all(self, urls: Sequence[str]) -> "Import":
        """Import at the same time, each into a repository of its own name."""
        before = cpu_seconds(self.worker_pid) + cpu_seconds(self.registry_pid)
        jobs = []
        for url in urls:
            # A repository for each: what another one holds already has to be found there.
            uid = str(uuid.uuid4())
            jobs.append(ImportJob(id=uid, repository=f"cvmi/{uid}", tag=uid, origin=HttpOrigin(url=url)))
        with peaks(self.worker_pid, self.scratch) as highest:
            begin = time.perf_counter()
            for job in jobs:
                self.board.submit(job)
            for job in jobs:
                while (progress := self.board.progress(job.id)) is None or progress.finished_at is None:
                    time.sleep(0.02)
                if progress.state is not JobState.SUCCEEDED:
                    raise SystemExit(f"the import of {urls} failed: {progress.reason}: {progress.message}")
            seconds = time.perf_counter() - begin
        cpu = cpu_seconds(self.worker_pid) + cpu_seconds(self.registry_pid) - before
        return Import(seconds, cpu, highest)


@dataclass
class Import:
    """What an import took."""

    seconds: float
    cpu_seconds: float
    peaks: Peaks = field(default_factory=Peaks)


@contextmanager
def product(concurrency: int = 1) -> Iterator[Product]:
    """Everything that an import needs, with an empty store."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ours-", dir=CACHE)))
        socket = Path(stack.enter_context(tempfile.TemporaryDirectory()), "redis.sock")
        broker = f"redis+socket://{socket}"
        environment = {
            "DVCR__STORAGE__FILESYSTEM__ROOT": f"{folder}/registry",
            "DVCR__REGISTRY__PORT": "0",
            "DVCR__IMPORTER__SCRATCH_DIR": f"{folder}/scratch",
            "DVCR__IMPORTER__CONCURRENCY": str(concurrency),
            "DVCR__IMPORTER__SOURCE_ADDRESSES": "any",
            "DVCR__BROKER__URL": broker,
            "DVCR__LOG__LEVEL": "warning",
        }
        start = partial(child, environment=environment)
        stack.enter_context(
            child("redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", ready=socket)
        )
        registry, registry_pid = stack.enter_context(start("dvcr", "serve"))
        environment["DVCR__CLIENT__URL"] = registry
        _, worker_pid = stack.enter_context(start("dvcr", "worker"))
        board = RedisJobBoard.from_settings(BrokerSettings.model_validate({"url": broker}))
        yield Product(board, worker_pid, registry_pid, folder / "registry", folder / "scratch")


@contextmanager
def served(file: Path, bytes_per_s: int | None = None) -> Iterator[str]:
    """The address of the file, which the page cache holds."""
    with file.open("rb", buffering=0) as reader:
        while reader.read(PIECE_BYTES):
            pass
    rate = [str(bytes_per_s)] if bytes_per_s else []
    with child(sys.executable, "-m", "bench.file_server", str(file), *rate) as (url, _):
        yield url


class Bench:
    """The rounds, and the rows that come of them."""

    def __init__(self, images: Images, rounds: int) -> None:
        self._images = images
        self._rounds = rounds
        self.rows: list[Row] = []

    def first_imports(self) -> None:
        """Every format into an empty store, beside both peers."""
        for name in FORMATS:
            self.first_import(name)

    def first_import(self, name: str) -> None:
        """An image into an empty store, beside both peers."""
        image_format = FORMATS[name]
        ours: list[Import] = []
        raw: list[tuple[float, float]] = []
        with served(self._images.file(name)) as url:
            for number in range(self._rounds):
                with product() as new:
                    ours.append(new.import_all([url]))
                raw.append(peers.convert_to_raw(url, image_format))
                say(f"{name}, round {number + 1}: {told(ours[-1])}; (a) {raw[-1][0]:.2f} s")
                if ours[-1].seconds + raw[-1][0] > 2 * ONCE_S:
                    break
            with tempfile.TemporaryDirectory(prefix="registry-", dir=CACHE):
                binary = debian_registry()
                with started("docker-registry", partial(peer_command, binary)) as (port, _):
                    container_disk = peers.push_container_disk(url, image_format, f"http://127.0.0.1:{port}")
            say(f"{name}: (b) {container_disk:.2f} s")
        seconds = middle([one.seconds for one in ours])
        to_raw = {TO_RAW: middle([one[0] for one in raw]), SYNCED: middle([one[1] for one in raw])}
        title = f"{name} of {self._images.file(name).stat().st_size / 2**30:.2f} GiB to Ready"
        self.rows += [
            Row(title, "s", seconds, 1.0, to_raw),
            Row(f"{title}, beside what users do today", "s", seconds, 3, {CONTAINER_DISK: round(container_disk, 2)}),
        ]
        self._limits(name, ours)

    def plain_raw(self) -> None:
        """The disk as it is, into an empty store, beside (a)."""
        with served(self._images.file("disk.raw")) as url:
            with product() as new:
                ours = new.import_all([url])
            raw = peers.convert_to_raw(url, "raw")
        say(f"disk.raw: {told(ours)}; (a) {raw[0]:.2f} s")
        to_raw = {TO_RAW: round(raw[0], 2), SYNCED: round(raw[1], 2)}
        self.rows.append(Row("disk.raw to Ready", "s", round(ours.seconds, 2), 1.0, to_raw))
        self._limits("disk.raw", [ours])

    def slow_links(self) -> None:
        """Every format through a link of 100 MB/s."""
        for name in FORMATS:
            self.slow_link(name)

    def slow_link(self, name: str) -> None:
        """Through a link of 100 MB/s, beside `curl` through it."""
        with served(self._images.file(name), LINK_BYTES_S) as url:
            with product() as new:
                ours = new.import_all([url])
            bare = round(peers.download(url), 2)
        say(f"{name} at 100 MB/s: {told(ours)}; curl {bare} s")
        self.rows.append(Row(f"{name} to Ready at 100 MB/s", "s", round(ours.seconds, 2), 0.91, {"curl": bare}))
        self._limits(f"{name} at 100 MB/s", [ours])

    def later_versions(self) -> None:
        """The second version after the first, then the same image again."""
        with product() as new, ExitStack() as stack:
            first, second = (
                stack.enter_context(served(self._images.file(name))) for name in ("disk.qcow2", "second.qcow2")
            )
            one = new.import_all([first])
            stored = new.stored_bytes()
            two = new.import_all([second])
            added, blobs = new.stored_bytes() - stored, new.blobs()
            again = new.import_all([second])
            # The manifest and the config of the third image are new.
            more = new.blobs() - blobs
        for what, took in (("first", one), ("second", two), ("same again", again)):
            say(f"versions: {what}: {told(took)}")
        self.rows += [
            Row("second version (5 % changed): stored", "% of the first", round(100 * added / stored, 1), 8),
            Row("second version", "s", round(two.seconds, 2), 2, {"the first": round(one.seconds, 2)}),
            Row("the same image again", "s", round(again.seconds, 2), 2, {"the first": round(one.seconds, 2)}),
            Row("the same image again: new chunks", "chunks", max(0, more - 2), 0),
        ]
        self._limits("second version and the same image again", [two, again])

    def at_once(self) -> None:
        """Four imports by one worker, beside what the same four take qemu-img one after the other."""
        names = ("disk.qcow2", "compressed.qcow2", "disk.vmdk", "second.qcow2")
        with product(4) as new, ExitStack() as stack:
            urls = [stack.enter_context(served(self._images.file(name))) for name in names]
            ours = new.import_all(urls)
            raw = [
                peers.convert_to_raw(url, FORMATS.get(name, "qcow2"))[0] for url, name in zip(urls, names, strict=True)
            ]
        say(f"4 at once: {told(ours)}; (a) {sum(raw):.2f} s one after the other")
        self.rows += [
            Row("4 imports at once to Ready", "s", round(ours.seconds, 2), 1.0, {TO_RAW: round(sum(raw), 2)}),
            Row("4 imports at once: peak RSS of one import's processes", "MB", mb(ours.peaks.import_rss), 400),
            Row("4 imports at once: peak RSS of the whole worker", "MB", mb(ours.peaks.rss), 4 * 400),
            Row("4 imports at once: peak scratch", "MB", mb(ours.peaks.scratch), 0),
        ]

    def large_disk(self) -> None:
        """A disk of 2 TiB with a few chunks of 128 MiB that do not compress: what it takes, not how long."""
        with served(self._images.file("large.qcow2")) as url, product() as new:
            ours = new.import_all([url])
        say(f"large.qcow2: {told(ours)}")
        self._limits("large.qcow2 of 2 TiB", [ours])
        self.rows.append(
            Row("large.qcow2 of 2 TiB: peak RSS of one import's processes", "MB", mb(ours.peaks.import_rss), 400)
        )

    def _limits(self, title: str, imports: Sequence[Import]) -> None:
        self.rows += [
            Row(f"{title}: peak RSS of the worker", "MB", max(mb(one.peaks.rss) for one in imports), 400),
            Row(f"{title}: peak scratch", "MB", max(mb(one.peaks.scratch) for one in imports), 0),
        ]


PARTS: dict[str, Callable[[Bench], None]] = {
    "formats": Bench.first_imports,
    "raw": Bench.plain_raw,
    "slow-link": Bench.slow_links,
    "versions": Bench.later_versions,
    "at-once": Bench.at_once,
    "large": Bench.large_disk,
}


def told(took: Import) -> str:
    """For the log of a run."""
    return (
        f"ours {took.seconds:.2f} s, {took.cpu_seconds:.2f} CPU-s, RSS {mb(took.peaks.rss)} MB (one import "
        f"{mb(took.peaks.import_rss)} MB), scratch {mb(took.peaks.scratch)} MB"
    )


def mb(size_bytes: int) -> int:
    """Whole megabytes."""
    return round(size_bytes / 1e6)


def middle(values: Sequence[float]) -> float:
    """The median, in hundredths."""
    return round(statistics.median(values), 2)


def say(line: str) -> None:
    """Tell how far the run is."""
    print(line, flush=True)


def main() -> None:
    """Build what is missing, run the rounds, tell the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="an eighth of the bytes, one round, and nothing written")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="measure these anew, and keep the other rows")
    arguments = parser.parse_args()
    images = Images(QUICK if arguments.quick else FULL)
    bench = Bench(images, 1 if arguments.quick else arguments.rounds)
    for part in arguments.only or PARTS:
        PARTS[part](bench)
    versions = machine(
        ["qemu-img", "--version"],
        ["curl", "--version"],
        ["xz", "--version"],
        ["skopeo", "--version"],
        [debian_registry(), "--version"],
        ["redis-server", "--version"],
    )
    if arguments.quick:
        show("pipeline", bench.rows, versions)
    else:
        write("pipeline", bench.rows, versions, keep_others=bool(arguments.only))


if __name__ == "__main__":
    main()
