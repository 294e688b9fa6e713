"""Pushes and pulls beside docker-registry (Debian) and distribution v3, by one client.

Run it by `make bench-registry`, or `python -m bench.registry --quick`. Ours is `dvcr serve` with default settings, and
again with `--workers 2`; the peers have the filesystem driver and the in-memory cache of Debian's configuration, and
write no access log, while ours does. Rounds alternate; medians are told, the best peer first, and last the ceilings:
the same client against a server that does nothing, and a file written and synced. zot is left out.

Durability is the same where it costs: all `fsync` a blob's file before they answer 201. Ours also syncs folders that
got new names; distribution v3 does so too (strace), but not where it moves the finished blob. Pulls read what was just
pushed, from the page cache.
"""

import argparse
import hashlib
import json
import mmap
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.processes import CACHE, DVCR, MIB
from bench.registry_client import MANIFEST_TYPE, REPOSITORY, Connection, Slice, measure, null_server
from bench.report import Row, machine, show, write

DISTRIBUTION = "github.com/distribution/distribution/v3/cmd/registry@v3.1.2"
CONCURRENCY = 8
OBJECT_BYTES = 4 * MIB
RSS_LIMIT_MB = 200
OURS, CEILING, DISK = ("dvcr serve", "dvcr serve --workers 2"), "the client's ceiling", "the disk's (write + fsync)"

Command = Callable[[int, Path], Sequence[str | Path]]
"""How a server is started, by its port and folder."""


@dataclass(frozen=True)
class Work:
    """What is moved in each round."""

    large: Slice
    parallel: Sequence[Slice]
    objects: Sequence[Slice]
    requests: int


@dataclass(frozen=True)
class Measure:
    """What a row measures."""

    row: str
    unit: str
    target: float


def main() -> None:
    """Fetch and build what is missing, run the rounds, tell the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="an eighth of the bytes, and nothing written")
    arguments = parser.parse_args()
    debian, distribution = debian_registry(), go_tool(DISTRIBUTION)
    servers: dict[str, Command] = {
        OURS[0]: lambda port, _: [DVCR, "serve", "--port", str(port)],
        OURS[1]: lambda port, _: [DVCR, "serve", "--port", str(port), "--workers", "2"],
        "docker-registry": partial(peer_command, debian),
        "distribution v3": partial(peer_command, distribution),
    }
    work = prepare(arguments.quick)
    figures: dict[Measure, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def run(number: int, name: str, port: int, pid: int | None = None) -> None:
        for what, value in measured(work, port, pid):
            figures[what][name].append(value)
            print(f"round {number}: {name}: {what.row}: {value:.0f} {what.unit}", flush=True)

    for number in range(1, arguments.rounds + 1):
        for name, command in servers.items():
            with started(name, command) as (port, pid):
                run(number, name, port, pid)
        with null_server([work.large, *work.parallel, *work.objects]) as port:
            run(number, CEILING, port)
        speed = disk_speed(work.large)
        print(f"round {number}: {DISK}: {speed:.0f} MB/s", flush=True)
        for what in figures:
            if what.row.startswith("push"):
                figures[what][DISK].append(speed)
    rows = [row for ours in OURS for what, values in figures.items() for row in told(ours, what, values)]
    versions = machine([debian, "--version"], [distribution, "--version"])
    (show if arguments.quick else write)("registry", rows, versions)


def measured(work: Work, port: int, pid: int | None) -> Iterator[tuple[Measure, float]]:
    """Each row's figure."""
    large, parallel, objects = (blobs[0].size // MIB for blobs in ([work.large], work.parallel, work.objects))
    for name, blobs, targets in (
        (f"a blob of {large} MiB", [work.large], (2, 1.3)),
        (f"{len(work.parallel)} blobs of {parallel} MiB at once", work.parallel, (2, 1.3)),
        (f"{len(work.objects)} objects of {objects} MiB, {CONCURRENCY} at once", work.objects, (1, 1)),
    ):
        if pid:
            reset_peaks(pid)
        megabytes = sum(blob.size for blob in blobs) / 1e6
        for verb, act, target in zip(("push", "pull"), (Connection.push, Connection.pull), targets, strict=True):
            os.sync()
            seconds = measure(port, shared([partial(act, blob=blob) for blob in blobs]))
            yield Measure(f"{verb} {name}", "MB/s", target), megabytes / seconds
        if pid:
            yield Measure(f"peak RSS of a process: {name}", "MB", RSS_LIMIT_MB), peak_rss(pid) / 1e6
    put = partial(Connection.put_manifest, tag="latest", document=manifest(work.objects[0]))
    measure(port, [[put]])
    for name, method, path in (
        ("GET a manifest", b"GET", "manifests/latest"),
        ("HEAD a blob", b"HEAD", f"blobs/{work.objects[0].digest}"),
    ):
        ask = partial(Connection.request, method=method, path=f"/v2/{REPOSITORY}/{path}", status=200)
        seconds = measure(port, shared([ask] * work.requests))
        yield Measure(f"{name}, {CONCURRENCY} at once", "requests/s", 0.7), work.requests / seconds


def disk_speed(blob: Slice) -> float:
    """MB/s of copying a blob to one new file and `fsync`: what no durable push of it can exceed by much."""
    os.sync()
    begin = time.monotonic()
    with blob.file.open("rb") as source, tempfile.TemporaryFile(dir=CACHE) as target:
        for _ in range(0, blob.size, OBJECT_BYTES):
            target.write(source.read(OBJECT_BYTES))
        target.flush()
        os.fsync(target.fileno())
        return blob.size / 1e6 / (time.monotonic() - begin)


def shared(tasks: Sequence[Callable[[Connection], object]]) -> list[Sequence[Callable[[Connection], object]]]:
    """The tasks dealt out to so many clients."""
    return [tasks[number::CONCURRENCY] for number in range(min(CONCURRENCY, len(tasks)))]


def told(ours: str, what: Measure, values: Mapping[str, Sequence[float]]) -> Iterator[Row]:
    """The row of one of our ways to run. RSS has no peers: its target is a figure, and the worst round counts."""
    medians = {name: round(statistics.median(of_rounds)) for name, of_rounds in values.items()}
    name = what.row if ours == OURS[0] else f"{what.row} (--workers 2)"
    if what.unit == "MB":
        yield Row(name, what.unit, round(max(values[ours])), what.target)
        return
    peers = sorted(set(medians) - {*OURS, CEILING, DISK}, key=lambda peer: -medians[peer])
    yield Row(
        name,
        what.unit,
        medians[ours],
        what.target,
        {peer: medians[peer] for peer in (*peers, CEILING, DISK) if peer in medians},
        True,
    )


def prepare(quick: bool) -> Work:
    """The blobs: parts of one file of random bytes, which is written once, and read here so that it is cached."""
    large, part, objects, requests = (256, 64, 64, 800) if quick else (2048, 512, 256, 8000)
    file = CACHE / "random.bin"
    size = CONCURRENCY * 512 * MIB
    if not file.exists():
        print("writing random bytes", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".part")
        with draft.open("wb") as out:
            for _ in range(size // OBJECT_BYTES):
                out.write(os.urandom(OBJECT_BYTES))
        draft.rename(file)
    with file.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:

        def blob(number: int, length: int) -> Slice:
            offset = number * length
            with memoryview(data)[offset : offset + length] as view:
                return Slice(file, offset, length, f"sha256:{hashlib.sha256(view).hexdigest()}")

        return Work(
            blob(0, large * MIB),
            [blob(number, part * MIB) for number in range(CONCURRENCY)],
            [blob(number, OBJECT_BYTES) for number in range(objects)],
            requests,
        )


def manifest(blob: Slice) -> bytes:
    """An image manifest with the blob as its config and its layer."""
    descriptor = {"mediaType": "application/octet-stream", "digest": blob.digest, "size": blob.size}
    document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": descriptor, "layers": [descriptor]}
    return json.dumps(document).encode()


@contextmanager
def started(name: str, command: Command) -> Iterator[tuple[int, int]]:
    """A server with an empty folder: its port and process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="registry-", dir=CACHE) as folder, (CACHE / "server.log").open("wb") as log:
        environment = {
            **os.environ,
            "DVCR__STORAGE__FILESYSTEM__ROOT": f"{folder}/store",
            "OTEL_TRACES_EXPORTER": "none",  # distribution v3 looks for a collector otherwise
        }
        process = subprocess.Popen(command(port, Path(folder)), env=environment, stdout=log, stderr=log)
        try:
            while process.poll() is None and not _listens(port):
                time.sleep(0.05)
            if process.returncode is not None:
                raise SystemExit(f"{name} did not start: see {log.name}")
            yield port, process.pid
        finally:
            process.terminate()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def peer_command(binary: str, port: int, folder: Path) -> Sequence[str | Path]:
    """How to start one of the peers; both read the same configuration."""
    config = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": f"{folder}/store"}, "cache": {"blobdescriptor": "inmemory"}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    file = folder / "config.yml"
    file.write_text(json.dumps(config))
    return [binary, "serve", file]


def debian_registry() -> str:
    """Debian's docker-registry, unpacked rather than installed, so that no service is started."""
    folder = CACHE / "docker-registry"
    binary = folder.resolve() / "usr/bin/docker-registry"
    if not binary.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", "docker-registry"], cwd=folder, check=True)
        package = next(folder.glob("docker-registry_*.deb"))
        subprocess.run(["dpkg", "-x", package, folder], check=True)
    return str(binary)


def go_tool(package: str) -> str:
    """A Go program, built."""
    return subprocess.check_output(["scripts/go-tool", package], text=True).strip()


def reset_peaks(pid: int) -> None:
    """Let the kernel forget the highest RSS of a process and its children."""
    for process in _tree(pid):
        Path(f"/proc/{process}/clear_refs").write_text("5")


def peak_rss(pid: int) -> int:
    """The highest RSS since then of the process or a child of it."""
    lines = [line for process in _tree(pid) for line in Path(f"/proc/{process}/status").read_text().splitlines()]
    return max(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(process for child in children for process in _tree(int(child)))]


if __name__ == "__main__":
    main()
