"""Disks and machines of the whole product, from Ready images. Writes bench/results/machines.json.

Run it by `make bench-machines`, or `python -m bench.machines --quick` (smaller images, nothing written). One `dvcr up`
serves all rows; its images are described in bench/disks.py. Peers run in between, on the same files.

- Start: from creating a VirtualMachine on a Ready disk until code of the disk's boot sector has written to the serial
  port, beside a QEMU that is started by hand on a local qcow2. Both pass through the firmware, under emulation.
- Reads and standing alone: see bench/disk_copies.py.
- Ten machines: how often the bytes of their image left the registry, by its own metrics.
- Golden image: 200 MB changed in runs of 16 MiB on the disk of a running machine; how much the registry's folder grew.
- Live migration: a guest with a system that writes 16 MiB of its memory again and again, to a second node on this host.

Medians over the rounds are told.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import requests

from bench.disk_copies import DiskCopies, middle, say
from bench.disks import LARGE, MARKER, MEDIUM, QUICK_LARGE, QUICK_MEDIUM, SMALL, Shape
from bench.processes import CACHE, MIB, child
from bench.report import Row, machine, show, write
from controller.api.resource import CLUSTER_IMAGE, DISK, MACHINE, OPERATION, POD, PVC, Resource
from controller.launcher import qcow2
from controller.runtime.cluster import Cluster
from demo.guest import build
from dvcr.artifact.store import StoredImage, fetch
from dvcr.client.registry import RegistryClient
from dvcr.config import Settings
from tests.e2e import resources
from tests.support.product import Product, running_product
from tests.support.second_node import second_node

OVERHEAD_S = 2.0
MACHINES = 10
NAMESPACE = "default"
CHANGED_BYTES, RUN_BYTES, SENT_MB = 200_000_000, 16 * MIB, 300
WAIT_S = 600
WRITER = "#!/bin/sh\necho writing\nwhile true; do dd if=/dev/zero of=/tmp/memory bs=1M count=16 2>/dev/null; done\n"
SENT = "dvcr_registry_sent_bytes_total "


class Bench:
    """The rounds on one product, and the rows that come of them."""

    def __init__(self, product: Product, folder: Path, rounds: int) -> None:
        self._product = product
        self._folder = folder
        self.rounds = rounds
        self._cluster = Cluster.connect(product.data / "kubeconfig")
        self._names = (f"b{number}" for number in range(10_000))
        settings = {"url": f"http://{product.registry}"}
        self.settings = Settings.model_validate(
            {"client": settings, "launcher": {"cache_dir": str(folder / "cache"), "cache_size_bytes": 32 * 2**30}}
        )
        self._registry = RegistryClient.from_settings(self.settings.client)
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
            for _ in range(self.rounds):
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

    def at_once(self, shape: Shape) -> None:
        """Ten machines of one image that no machine of the node has used."""
        stored = self.image(shape)
        names = [self._disk(shape) for _ in range(MACHINES)]
        shutil.rmtree(self._product.data / "cache", ignore_errors=True)
        before, begin = self._sent_bytes(), time.perf_counter()
        for name in names:
            self._create(MACHINE, machine_on(name))
        for name in names:
            self._wait_for_marker(name)
        say(f"{MACHINES} machines: all run after {time.perf_counter() - begin:.1f} s")
        for name in names:
            self._wait_until_alone(name)
        seconds = time.perf_counter() - begin
        # Manifests and configs are less than a hundredth of it.
        each = round((self._sent_bytes() - before) / stored.image.stored_bytes, 2)
        say(f"{MACHINES} machines: the image left the registry {each} times; all alone after {seconds:.1f} s")
        self.rows.append(Row(f"{MACHINES} machines of one image: what left the registry", "images", each, 1))
        self._remove(*names)

    def golden_image(self, shape: Shape) -> None:
        """Of the disk of a running machine that stands alone."""
        name = self._disk(shape, provisioning="Eager")
        claim = self._get(PVC, f"vmd-{name}")
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

    def migration(self, guest: Path) -> None:
        """There and back, on a volume that both nodes see."""
        with child(sys.executable, "-m", "bench.file_server", str(guest)) as (url, _):
            self._create(CLUSTER_IMAGE, resources.cluster_image("guest", url))
            self._wait(CLUSTER_IMAGE, "guest", "Ready")
        root = resources.disk("mover", "guest")
        root["spec"]["persistentVolumeClaim"]["storageClassName"] = "shared"
        self._create(DISK, root)
        self._create(MACHINE, resources.machine("mover", "mover", user_data=WRITER))
        self._wait(MACHINE, "mover", "Running")
        wait_until(lambda: b"writing" in b"".join(self._cluster.logs("vm-mover", NAMESPACE)), "the guest's writes")
        downtimes_ms, totals_s = [], []
        for number in range(2 * self.rounds):
            self._create(OPERATION, resources.operation(f"move-{number}", "Migrate", "mover"))
            self._wait(OPERATION, f"move-{number}", "Completed")
            migration = self._get(MACHINE, "mover")["status"]["migration"]
            downtimes_ms.append(migration["downtimeMilliseconds"])
            totals_s.append(migration["totalMilliseconds"] / 1000)
        say(f"live migration: downtime {downtimes_ms} ms, total {totals_s} s")
        what = "live migration of a guest that writes 16 MiB again and again"
        self.rows.append(Row(f"{what}: downtime", "ms", middle(downtimes_ms), self.settings.migration.downtime_ms))
        self.rows.append(Row(f"{what}: total", "s", middle(totals_s), None))
        self._remove("mover")

    def _create(self, resource: Resource, obj: dict[str, Any]) -> None:
        self._cluster.create(resource, obj)

    def _wait(self, resource: Resource, name: str, phase: str, timeout_s: float = WAIT_S) -> None:
        wait_until(lambda: self._phase(resource, name) == phase, f"{resource.kind} {name} {phase}", timeout_s)

    def _phase(self, resource: Resource, name: str) -> str:
        obj = self._get(resource, name)
        phase = str((obj.get("status") or {}).get("phase"))
        if phase == "Failed":
            raise SystemExit(f"{resource.kind} {name} failed: {obj['status']}")
        return phase

    def _get(self, resource: Resource, name: str) -> dict[str, Any]:
        return self._cluster.get(resource, name, NAMESPACE if resource.namespaced else None) or {}

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
        return not self._get(DISK, name)

    def _wait_for_marker(self, name: str) -> None:
        wait_until(lambda: bool(self._get(POD, f"vm-{name}")), f"the pod of {name}")
        folder = self._product.data / "node/pods" / self._get(POD, f"vm-{name}")["metadata"]["uid"]
        wait_until(lambda: any(MARKER in log.read_text() for log in folder.glob("machine/*/log")), MARKER)

    def _wait_until_alone(self, name: str) -> None:
        claim = self._get(PVC, f"vmd-{name}")
        file = self._product.data / "node/volumes" / claim["spec"]["volumeName"] / "disk.qcow2"
        wait_until(lambda: qcow2.read_header(file).backing is None, f"disk {name} standing alone")

    def image(self, shape: Shape) -> StoredImage:
        """As the registry has it."""
        return fetch(self._registry.repository(f"cvmi/{shape.name}"), "latest")

    def _sent_bytes(self) -> float:
        metrics = requests.get(f"http://{self._product.registry}/metrics", timeout=10).text
        return sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(SENT))

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


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Look often, but not so often that the looking is measured."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)


def gib(size_bytes: int) -> str:
    """As people say it."""
    return f"{round(size_bytes / 2**30, 1):g} GiB"


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
        os.environ["DVCR__NODE__SHARED_VOLUMES_DIR"] = str(folder / "shared")
        product = stack.enter_context(running_product(folder / "product"))
        bench = Bench(product, folder / "work", 1 if arguments.quick else arguments.rounds)
        for shape in shapes:
            bench.import_image(shape)
        bench.start(shapes)
        bench.at_once(SMALL)
        copies = DiskCopies(bench.image(shapes[1]), bench.settings, folder / "copies", bench.rounds)
        copies.reads()
        copies.standing_alone(shapes[1])
        bench.rows += copies.rows
        bench.golden_image(shapes[2])
        guest = build(folder / "guest.qcow2")
        with second_node(product, folder / "shared"):
            bench.migration(guest)
    versions = machine(["qemu-system-x86_64", "--version"], ["qemu-img", "--version"])
    (show if arguments.quick else write)("machines", bench.rows, versions)


if __name__ == "__main__":
    main()
