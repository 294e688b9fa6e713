"""Disks and machines of the whole product, from Ready images. Writes bench/results/machines.json.

Run it by `make bench-machines`, or `python -m bench.machines --quick` (smaller images, nothing written). One `dvcr up`
serves all rows; its images are described in bench/disks.py. Peers run in between, on the same files.

- Start: from creating a VirtualMachine on a Ready disk until code of the disk's boot sector has written to the serial
  port, beside a QEMU that is started by hand on a local qcow2. Both pass through the firmware, under emulation.
- Reads: an NBD client at QEMU's own server on the node that a guest would have (no guest: its emulated processors would
  be measured), through the image's chunks, beside the same client on a qcow2 that stands alone. Cold: with an empty
  chunk cache, beside as many clients as read ahead, fetching the same blobs and dropping them; bytes as stored.
- Standing alone: the copy of an image into a disk, beside `qemu-img convert` to qcow2 from the same data in a plain
  qcow2, and in one compressed with zstd, as the chunks are. Ours is synced, theirs is not.
- Ten machines: how often each chunk left the registry, by its own metrics.
- Golden image: 200 MB changed in runs of 16 MiB on the disk of a running machine; how much the registry's folder grew.

Medians over the rounds are told.
"""

import argparse
import asyncio
import multiprocessing
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import requests

from bench.disks import LARGE, MARKER, MEDIUM, QUICK_LARGE, QUICK_MEDIUM, SMALL, Shape
from bench.processes import CACHE, MIB, child
from bench.report import Row, machine, show, write
from controller.api.resource import CLUSTER_IMAGE, DISK, MACHINE, POD, PVC, Resource
from controller.launcher import qcow2
from controller.launcher.fill import fill, open_disk
from controller.launcher.images import READ_AHEAD_CHUNKS
from controller.launcher.spec import DiskSpec, ImageReference
from controller.runtime.cluster import Cluster
from converter.nbd.client import NbdClient
from dvcr.artifact.store import StoredImage, fetch
from dvcr.client.registry import RegistryClient
from dvcr.config import Settings
from tests.e2e import resources
from tests.support.product import Product, running_product

OVERHEAD_S = 2.0
MACHINES = 10
NAMESPACE = "default"
CHANGED_BYTES, RUN_BYTES, SENT_MB = 200_000_000, 16 * MIB, 300
RANDOM_BYTES, RANDOM_READS = 65536, 2000
WAIT_S = 600
BLOBS = 'dvcr_registry_requests_total{method="GET",route="/v2/{name}/blobs/{digest}",status="20'
PLAIN, ZSTD = "qemu-img convert of a plain qcow2", "qemu-img convert of one compressed with zstd"


Read = Callable[[Path, str, StoredImage], float]
"""Reads an export at a socket; MB/s."""


class Bench:
    """The rounds on one product, and the rows that come of them."""

    def __init__(self, product: Product, folder: Path, rounds: int) -> None:
        self._product = product
        self._folder = folder
        self._rounds = rounds
        self._cluster = Cluster.connect(product.data / "kubeconfig")
        self._names = (f"b{number}" for number in range(10_000))
        settings = {"url": f"http://{product.registry}"}
        self._settings = Settings.model_validate(
            {"client": settings, "launcher": {"cache_dir": str(folder / "cache"), "cache_size_bytes": 32 * 2**30}}
        )
        self._registry = RegistryClient.from_settings(self._settings.client)
        self.rows: list[Row] = []

    def import_image(self, shape: Shape) -> None:
        """The shape's image, Ready."""
        file = shape.file()
        with child(sys.executable, "-m", "bench.file_server", str(file)) as (url, _):
            self._create(CLUSTER_IMAGE, resources.cluster_image(shape.name, url))
            self._wait(CLUSTER_IMAGE, shape.name, "Ready", WAIT_S)

    def start(self, shapes: Sequence[Shape]) -> None:
        """Machines on disks that are Ready, of which nothing has been copied."""
        for shape in shapes:
            ours, bare = [], []
            for _ in range(self._rounds):
                bare.append(bare_start(shape.file()))
                name = self._disk(shape)
                begin = time.perf_counter()
                self._create(MACHINE, machine_on(name))
                self._wait_for_marker(name)
                ours.append(time.perf_counter() - begin)
                self._remove(name)
            overhead = statistics.median(ours) - statistics.median(bare)
            what = f"{gib(shape.virtual_bytes)} with {gib(shape.data_bytes)} of data"
            say(f"start, {what}: {middle(ours)} s, bare QEMU {middle(bare)} s")
            self.rows.append(Row(f"start over a bare QEMU's, {what}", "s", round(overhead, 2), OVERHEAD_S))

    def reads(self, shape: Shape) -> None:
        """Through the image, warm and cold, beside a qcow2 that stands alone and the registry itself."""
        stored = self._image(shape)
        local = self._folder / "local"
        asyncio.run(fill(self._spec(stored), self._settings, local, lambda _: None))
        kinds: dict[str, Read] = {"sequential": sequential, "random": random_reads}
        for kind, read in kinds.items():
            ours, alone = [], []
            for number in range(self._rounds):
                alone.append(asyncio.run(self._read(stored, local, read)))
                ours.append(asyncio.run(self._read(stored, self._folder / f"warm-{kind}-{number}", read)))
            say(f"{kind} reads: {middle(ours)} MB/s through the image, {middle(alone)} MB/s alone")
            peers = {"a qcow2 that stands alone": middle(alone)}
            self.rows.append(Row(f"{kind} reads through the image, warm", "MB/s", middle(ours), 0.7, peers, True))
        ours, bare = [], []
        for number in range(self._rounds):
            bare.append(self._fetch_all(stored))
            shutil.rmtree(self._folder / "cache")
            speed = asyncio.run(self._read(stored, self._folder / f"cold-{number}", kinds["sequential"]))
            ours.append(speed * stored.image.stored_bytes / data_bytes(stored))
        say(f"cold reads: {middle(ours)} MB/s as stored, the registry {middle(bare)} MB/s")
        peers = {"the registry": middle(bare)}
        self.rows.append(Row("sequential reads, cold, as stored", "MB/s", middle(ours), 0.5, peers, True))

    def standing_alone(self, shape: Shape) -> None:
        """The copy, warm and cold."""
        stored, plain = self._image(shape), shape.file()
        packed = plain.with_suffix(".zstd.qcow2")
        if not packed.exists():
            options = ["-c", "-o", "compression_type=zstd"]
            subprocess.run(["qemu-img", "convert", "-O", "qcow2", *options, plain, packed], check=True)
        figures: dict[str, list[float]] = {"cold": [], "warm": [], PLAIN: [], ZSTD: []}
        for number in range(self._rounds):
            shutil.rmtree(self._folder / "cache", ignore_errors=True)
            for kind in ("cold", "warm"):
                root = self._folder / f"alone-{kind}-{number}"
                begin = time.perf_counter()
                asyncio.run(fill(self._spec(stored), self._settings, root, lambda _: None))
                figures[kind].append(time.perf_counter() - begin)
                shutil.rmtree(root)
            for kind, source in ((PLAIN, plain), (ZSTD, packed)):
                target = self._folder / "converted.qcow2"
                begin = time.perf_counter()
                subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", source, target], check=True)
                figures[kind].append(time.perf_counter() - begin)
                target.unlink()
        peers = {kind: middle(figures[kind]) for kind in (PLAIN, ZSTD)}
        for kind in ("warm", "cold"):
            title = f"standing alone, {gib(shape.data_bytes)} of data, {kind}"
            say(f"{title}: {middle(figures[kind])} s; {peers}")
            self.rows.append(Row(title, "s", middle(figures[kind]), 1.2, peers))

    def at_once(self, shape: Shape) -> None:
        """Ten machines of one image that no machine of the node has used."""
        stored = self._image(shape)
        names = [self._disk(shape) for _ in range(MACHINES)]
        shutil.rmtree(self._product.data / "cache", ignore_errors=True)
        before, begin = self._blobs_given(), time.perf_counter()
        for name in names:
            self._create(MACHINE, machine_on(name))
        for name in names:
            self._wait_for_marker(name)
        say(f"{MACHINES} machines: all run after {time.perf_counter() - begin:.1f} s")
        for name in names:
            self._wait_until_alone(name)
        seconds = time.perf_counter() - begin
        # Each launcher reads the image's config, too.
        each = (self._blobs_given() - before - MACHINES) / len(stored.image.chunks)
        say(f"{MACHINES} machines: each chunk left the registry {each:.2f} times; all alone after {seconds:.1f} s")
        self.rows.append(Row(f"{MACHINES} machines of one image: GETs of each chunk", "times", round(each, 2), 1))
        self._remove(*names)

    def golden_image(self, shape: Shape) -> None:
        """Of the disk of a running machine that stands alone."""
        name = self._disk(shape, provisioning="Eager")
        claim = self._cluster.get(PVC, f"vmd-{name}", NAMESPACE) or {}
        change(self._product.data / "node/volumes" / claim["spec"]["volumeName"] / "disk.qcow2", shape)
        self._create(MACHINE, machine_on(name))
        self._wait_for_marker(name)
        before, begin = self._stored_bytes(), time.perf_counter()
        source = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": name, "namespace": "default"}}
        golden = {**resources.cluster_image("golden", ""), "spec": {"dataSource": source}}
        self._create(CLUSTER_IMAGE, golden)
        self._wait(CLUSTER_IMAGE, "golden", "Ready", WAIT_S)
        seconds = time.perf_counter() - begin
        sent = round((self._stored_bytes() - before) / 1e6)
        what = f"200 MB changed in {gib(shape.data_bytes)}, machine running"
        say(f"golden image, {what}: {sent} MB sent, {seconds:.1f} s")
        self.rows.append(Row(f"golden image, {what}: sent", "MB", sent, SENT_MB))
        self._remove(name)

    def _create(self, resource: Resource, obj: dict[str, Any]) -> None:
        self._cluster.create(resource, obj)

    def _wait(self, resource: Resource, name: str, phase: str, timeout_s: float = WAIT_S) -> None:
        wait_until(lambda: self._phase(resource, name) == phase, f"{resource.kind} {name} {phase}", timeout_s)

    def _phase(self, resource: Resource, name: str) -> str:
        obj = self._cluster.get(resource, name, NAMESPACE if resource.namespaced else None) or {}
        phase = str((obj.get("status") or {}).get("phase"))
        if phase == "Failed":
            raise SystemExit(f"{resource.kind} {name} failed: {obj['status']}")
        return phase

    def _disk(self, shape: Shape, **spec: str) -> str:
        name = next(self._names)
        obj = resources.disk(name, shape.name)
        self._create(DISK, {**obj, "spec": {**obj["spec"], **spec}})
        self._wait(DISK, name, "Ready")
        return name

    def _remove(self, *names: str) -> None:
        for name in names:
            for resource in (MACHINE, DISK):
                self._cluster.delete(resource, name, NAMESPACE)
        for name in names:
            wait_until(partial(self._is_gone, name), f"the end of disk {name}")

    def _is_gone(self, name: str) -> bool:
        return self._cluster.get(DISK, name, NAMESPACE) is None

    def _wait_for_marker(self, name: str) -> None:
        wait_until(lambda: self._cluster.get(POD, f"vm-{name}", NAMESPACE) is not None, f"the pod of {name}")
        pod = self._cluster.get(POD, f"vm-{name}", NAMESPACE) or {}
        folder = self._product.data / "node/pods" / pod["metadata"]["uid"]
        wait_until(lambda: any(MARKER in log.read_text() for log in folder.glob("machine/*/log")), MARKER)

    def _wait_until_alone(self, name: str) -> None:
        claim = self._cluster.get(PVC, f"vmd-{name}", NAMESPACE) or {}
        file = self._product.data / "node/volumes" / claim["spec"]["volumeName"] / "disk.qcow2"
        wait_until(lambda: qcow2.read_header(file).backing is None, f"disk {name} standing alone")

    def _image(self, shape: Shape) -> StoredImage:
        return fetch(self._registry.repository(f"cvmi/{shape.name}"), "latest")

    def _spec(self, stored: StoredImage) -> DiskSpec:
        image = ImageReference(repository=stored.repository, digest=str(stored.digest))
        return DiskSpec(name="disk", kind="disk", path="/disk.qcow2", image=image)

    async def _read(self, stored: StoredImage, root: Path, read: Read) -> float:
        async with (
            open_disk(self._spec(stored), self._settings, root) as opened,
            opened.copies.server.serving(opened.disk.drive.node) as (socket, export),
        ):
            # Another process, as a guest is: threads of this one serve the image.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                return await asyncio.get_running_loop().run_in_executor(pool, read, socket, export, stored)

    def _fetch_all(self, stored: StoredImage) -> float:
        """MB/s of the image's blobs, dropped."""
        repository = self._registry.repository(stored.repository)
        begin = time.perf_counter()
        with ThreadPoolExecutor(READ_AHEAD_CHUNKS) as pool:
            for _ in pool.map(lambda chunk: len(repository.read_blob(chunk.descriptor.digest)), stored.image.chunks):
                pass
        return stored.image.stored_bytes / 1e6 / (time.perf_counter() - begin)

    def _blobs_given(self) -> float:
        metrics = requests.get(f"http://{self._product.registry}/metrics", timeout=10).text
        return sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(BLOBS))

    def _stored_bytes(self) -> int:
        folder = self._product.data / "registry"
        return int(subprocess.check_output(["du", "-s", "--block-size=1", folder]).split()[0])


def machine_on(disk: str) -> dict[str, Any]:
    """A machine of the disk's name; its guest obeys no power button."""
    obj = resources.machine(disk, disk)
    return {**obj, "spec": {**obj["spec"], "terminationGracePeriodSeconds": 1}}


def bare_start(file: Path) -> float:
    """Seconds until the guest's first code, of a QEMU started by hand over the file, which stays as it is."""
    command = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "256M"]
    command += ["-nodefaults", "-display", "none", "-serial", "stdio", "-snapshot"]
    command += ["-drive", f"file={file},format=qcow2,if=virtio"]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if MARKER in line:
                break
        seconds = time.perf_counter() - begin
        process.kill()
    return seconds


def sequential(socket: Path, export: str, stored: StoredImage) -> float:
    """MB/s through the image's chunks from first to last."""
    with NbdClient.connect(socket, export) as client:
        begin = time.perf_counter()
        for chunk in stored.image.chunks:
            offset, end = chunk.index * stored.image.chunk_size_bytes, stored.image.chunk_length(chunk.index)
            for at in range(0, end, MIB):
                client.read(offset + at, min(MIB, end - at))
        return data_bytes(stored) / 1e6 / (time.perf_counter() - begin)


def random_reads(socket: Path, export: str, stored: StoredImage) -> float:
    """MB/s of small reads all over the image's chunks."""
    draw = random.Random(1)
    with NbdClient.connect(socket, export) as client:
        begin = time.perf_counter()
        for _ in range(RANDOM_READS):
            chunk = draw.choice(stored.image.chunks)
            offset = draw.randrange((stored.image.chunk_length(chunk.index) - RANDOM_BYTES) // 4096) * 4096
            client.read(chunk.index * stored.image.chunk_size_bytes + offset, RANDOM_BYTES)
        return RANDOM_READS * RANDOM_BYTES / 1e6 / (time.perf_counter() - begin)


def change(disk: Path, shape: Shape) -> None:
    """Write bytes that do not compress, in long runs all over the disk."""
    draw = random.Random(7)
    with tempfile.NamedTemporaryFile(dir=CACHE) as noise:
        noise.write(draw.randbytes(CHANGED_BYTES))
        noise.flush()
        runs = []
        for at in range(0, CHANGED_BYTES, RUN_BYTES):
            length = min(RUN_BYTES, CHANGED_BYTES - at) // 512 * 512
            place = draw.randrange((shape.virtual_bytes - RUN_BYTES) // 4096) * 4096
            runs += ["-c", f"write -s {noise.name} {place} {length}"]
        subprocess.run(["qemu-io", *runs, disk], check=True, stdout=subprocess.DEVNULL)


def data_bytes(stored: StoredImage) -> int:
    """Bytes of the disk that the image's chunks hold."""
    return sum(stored.image.chunk_length(chunk.index) for chunk in stored.image.chunks)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Look often, but not so often that the looking is measured."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)


def middle(values: Sequence[float]) -> float:
    """The median, in hundredths."""
    return round(statistics.median(values), 2)


def gib(size_bytes: int) -> str:
    """As people say it."""
    return f"{size_bytes / 2**30:.1f} GiB".replace(".0 ", " ")


def say(line: str) -> None:
    """Tell how far the run is."""
    print(line, flush=True)


def main() -> None:
    """Build what is missing, run the rounds, tell the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="smaller images, one round, and nothing written")
    arguments = parser.parse_args()
    shapes = [SMALL, QUICK_MEDIUM, QUICK_LARGE] if arguments.quick else [SMALL, MEDIUM, LARGE]
    for shape in shapes:
        shape.file()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="machines-", dir=CACHE.absolute())))
        product = stack.enter_context(running_product(folder / "product"))
        bench = Bench(product, folder / "work", 1 if arguments.quick else arguments.rounds)
        for shape in shapes:
            bench.import_image(shape)
        bench.start(shapes)
        bench.at_once(SMALL)
        bench.reads(shapes[1])
        bench.standing_alone(shapes[1])
        bench.golden_image(shapes[2])
    versions = machine(["qemu-system-x86_64", "--version"], ["qemu-img", "--version"])
    (show if arguments.quick else write)("machines", bench.rows, versions)


if __name__ == "__main__":
    main()
