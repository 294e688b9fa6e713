"""A qcow2 over local HTTP to an image in the registry, beside `curl` and then `qemu-img convert -O raw`.

Run it by `make bench-pipeline`, or `python -m bench.pipeline --rounds 5`. The image, an ext4 with at least 2 GiB of
files of /usr, is built once in .cache/bench. Ours is the time from submitting the job until it has succeeded, through
Redis, a real worker and a real registry, whose bytes are durable by then. The peer's are not, so its time is told a
second time with a `sync` of its file. Rounds alternate; medians are told.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.report import Row, machine, write
from dvcr.config import BrokerSettings
from dvcr.jobs.job import HttpOrigin, ImportJob, JobState
from dvcr.jobs.redis import RedisJobBoard

CACHE = Path(".cache/bench")
LEAST_DATA_BYTES = 2 * 2**30
DISK_BYTES = 4 * 2**30
DVCR = Path(sys.executable).with_name("dvcr")
SAMPLE_S = 0.05
MIB = 2**20


def main() -> None:
    """Build what is missing, run the rounds, tell the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    image = build_image()
    ours, rss, peer, durable = [], [], [], []
    with child(sys.executable, "-m", "bench.pipeline", "--serve", str(image)) as (url, _):
        for number in range(1, arguments.rounds + 1):
            seconds, peak = run_ours(url)
            ours.append(seconds)
            rss.append(peak)
            converted, synced = run_peer(url)
            peer.append(converted)
            durable.append(synced)
            print(
                f"round {number}: ours {seconds:.2f} s, {peak / MIB:.0f} MiB; "
                f"peer {converted:.2f} s, with sync {synced:.2f} s",
                flush=True,
            )
    rows = [
        Row(
            f"qcow2 of {image.stat().st_size / 2**30:.2f} GiB over HTTP to Ready",
            "s",
            round(statistics.median(ours), 2),
            1.2,
            {
                "curl + qemu-img convert -O raw": round(statistics.median(peer), 2),
                "the same + sync of the file": round(statistics.median(durable), 2),
            },
        ),
        Row("peak RSS of the worker's process tree", "MB", round(max(rss) / 1e6), 400),
    ]
    write("pipeline", rows, machine(["qemu-img", "--version"], ["curl", "--version"], ["redis-server", "--version"]))


def run_ours(url: str) -> tuple[float, int]:
    """Seconds of an import into an empty registry, and the highest RSS of the worker's processes meanwhile."""
    with tempfile.TemporaryDirectory(prefix="ours-", dir=CACHE) as folder, tempfile.TemporaryDirectory() as run:
        socket = f"{run}/redis.sock"
        broker = f"redis+socket://{socket}"
        environment = {
            "DVCR__STORAGE__FILESYSTEM__ROOT": f"{folder}/registry",
            "DVCR__REGISTRY__PORT": "0",
            "DVCR__IMPORTER__SCRATCH_DIR": f"{folder}/scratch",
            "DVCR__IMPORTER__SOURCE_ADDRESSES": "any",  # the file server is on loopback
            "DVCR__BROKER__URL": broker,
            "DVCR__LOG__LEVEL": "warning",
        }
        with (
            child("redis-server", "--port", "0", "--unixsocket", socket, "--save", "", ready=Path(socket)),
            child("dvcr", "serve", environment=environment) as (registry, _),
            child("dvcr", "worker", environment={**environment, "DVCR__CLIENT__URL": registry}) as (_, worker),
        ):
            board = RedisJobBoard.from_settings(BrokerSettings.model_validate({"url": broker}))
            uid = str(uuid.uuid4())
            os.sync()
            with peak_rss(worker) as peak:
                begin = time.perf_counter()
                board.submit(ImportJob(id=uid, repository="cvmi/bench", tag=uid, origin=HttpOrigin(url=url)))
                while (progress := board.progress(uid)) is None or progress.finished_at is None:
                    time.sleep(0.02)
                seconds = time.perf_counter() - begin
            if progress.state is not JobState.SUCCEEDED:
                raise SystemExit(f"the import failed: {progress.reason}: {progress.message}")
            return seconds, peak[0]


def run_peer(url: str) -> tuple[float, float]:
    """Seconds of `curl`, then `qemu-img convert` to a raw file; and until `sync` has made that file durable."""
    with tempfile.TemporaryDirectory(prefix="peer-", dir=CACHE) as folder:
        os.sync()
        begin = time.perf_counter()
        subprocess.run(["curl", "-sS", "-o", f"{folder}/disk.qcow2", url], check=True)
        convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", f"{folder}/disk.qcow2", f"{folder}/disk.raw"]
        subprocess.run(convert, check=True)
        converted = time.perf_counter() - begin
        subprocess.run(["sync", f"{folder}/disk.raw"], check=True)
        return converted, time.perf_counter() - begin


def build_image() -> Path:
    """The qcow2, built if it is not there: an ext4 of folders of /usr, until they hold enough."""
    image = CACHE / "usr.qcow2"
    if image.exists():
        return image
    with tempfile.TemporaryDirectory(prefix="build-", dir=_made(CACHE)) as folder:
        tree, raw, part = Path(folder, "tree"), Path(folder, "disk.raw"), Path(folder, "disk.qcow2")
        size = 0
        for source in ("bin", "lib", "share", "libexec", "sbin", "include", "src", "local"):
            if size < LEAST_DATA_BYTES and Path("/usr", source).is_dir():
                print(f"copying /usr/{source}", flush=True)
                _copy_some(Path("/usr", source), _made(tree / source), LEAST_DATA_BYTES * 5 // 4 - size)
                size = int(subprocess.check_output(["du", "-s", "--block-size=1", tree]).split()[0])
        if size < LEAST_DATA_BYTES:
            raise SystemExit(f"/usr holds only {size} bytes, {LEAST_DATA_BYTES} are needed")
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, raw, f"{DISK_BYTES // MIB}M"], check=True)
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, part], check=True)
        part.rename(image)
    return image


def _copy_some(source: Path, target: Path, limit_bytes: int) -> None:
    for entry in sorted(source.iterdir()):
        if entry.is_symlink() or limit_bytes <= 0:
            continue
        if entry.is_dir():
            shutil.copytree(entry, target / entry.name, symlinks=True, ignore_dangling_symlinks=True)
        elif entry.is_file():
            shutil.copy2(entry, target / entry.name)
        copied = target / entry.name
        if copied.exists():
            limit_bytes -= int(subprocess.check_output(["du", "-s", "--block-size=1", copied]).split()[0])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def serve(file: Path) -> None:
    """Serve one file with sendfile until killed."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with file.open("rb") as body:
                size = os.fstat(body.fileno()).st_size
                self.send_response(200)
                self.send_header("Content-Length", str(size))
                self.send_header("ETag", '"bench"')
                self.end_headers()
                self.wfile.flush()
                self.connection.sendfile(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class says so)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"listening on http://127.0.0.1:{server.server_port}/disk.qcow2", flush=True)
    server.serve_forever()


@contextmanager
def child(
    *command: str, environment: dict[str, str] | None = None, ready: Path | None = None
) -> Iterator[tuple[str, int]]:
    """A process that is ready, by its first line or by a socket: the last word of that line, and its process id."""
    if command[0] == "dvcr":
        command = (str(DVCR), *command[1:])
    process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        word = ""
        if ready is None:
            word = (process.stdout.readline().split() or [""])[-1]
        while ready is not None and not ready.exists():
            time.sleep(0.01)
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)} did not start")
        yield word, process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextmanager
def peak_rss(pid: int) -> Iterator[list[int]]:
    """A list whose one item becomes the highest sum of RSS of the process and all its descendants.

    Seen in two samples in a row: between vfork and exec a child counts all that its parent has a second time.
    """
    peak, done = [0], threading.Event()

    def sample() -> None:
        last = 0
        while not done.wait(SAMPLE_S):
            now = tree_rss(pid)
            peak[0] = max(peak[0], min(last, now))
            last = now

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def tree_rss(pid: int) -> int:
    """RSS of a process and all its descendants. Pages that they share count once for each."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [
            int(word)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for word in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(map(tree_rss, children))


if __name__ == "__main__":
    main()
