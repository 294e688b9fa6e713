"""A machine that moves between two nodes on one host: asked to, evicted, drained, and with parts killed half-way."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.api.resource import MACHINE, NODE, OPERATION, POD
from controller.runtime.cluster import Cluster
from controller.runtime.errors import ClusterError
from demo.server import serve_folder
from tests.e2e.resources import cluster_image, disk, machine, operation
from tests.support.machine_processes import kill, part_of
from tests.support.product import Product, running_product
from tests.support.second_node import second_node
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(900)

# Guests under emulation, on a machine that may do other things besides.
PATIENCE_S = 240
INTERVAL_S = 0.3
NAME = "mover"
# Slow enough to do something meanwhile.
BANDWIDTH_BYTES = 12 * 2**20
COUNTER = """#!/bin/sh
n=0
while true; do
    n=$((n+1))
    echo "DVCR-GUEST count=$n"
    usleep 100000
done
"""


class Site:
    """A product with a second node, and the machine that moves."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.cluster = Cluster.connect(product.data / "kubeconfig")

    @property
    def machine(self) -> dict[str, Any]:
        return self.cluster.get(MACHINE, NAME, "default") or {}

    @property
    def status(self) -> dict[str, Any]:
        return self.machine.get("status") or {}

    @property
    def node(self) -> str:
        return str(self.status.get("nodeName"))

    @property
    def pod(self) -> str:
        return str(self.status.get("activePod") or f"vm-{NAME}")

    def count(self) -> int:
        """What the guest has counted to, as its present pod's log has it; 0 without one."""
        try:
            log = b"".join(self.cluster.logs(self.pod, "default", tail_lines=5)).decode(errors="replace")
        except ClusterError:
            return 0
        found = re.findall(r"count=(\d+)\r?\n", log)
        return int(found[-1]) if found else 0

    def counts_on(self) -> None:
        """The guest runs."""
        before = self.count()
        eventually(lambda: self.count() > before, f"the guest counts on from {before}", PATIENCE_S, INTERVAL_S)

    def ask(self, name: str, kind: str) -> None:
        self.product.apply(operation(name, kind, NAME))

    def outcome(self, name: str) -> dict[str, Any]:
        """The status of an operation that has ended."""

        def ended() -> bool:
            status = (self.cluster.get(OPERATION, name, "default") or {}).get("status") or {}
            return status.get("phase") in ("Completed", "Failed")

        eventually(ended, f"the end of {name}", PATIENCE_S, INTERVAL_S)
        obj = self.cluster.get(OPERATION, name, "default")
        assert obj is not None
        status: dict[str, Any] = obj["status"]
        return status

    def is_moving(self) -> None:
        """The machine's memory is being sent."""

        def sends() -> bool:
            conditions = {c["type"]: c for c in self.status.get("conditions", [])}
            migrating = conditions.get("Migrating", {"reason": "", "message": ""})
            return migrating["reason"] == "Moving" and "MiB" in migrating["message"]

        eventually(sends, "memory on its way", PATIENCE_S, INTERVAL_S)

    def runs_once(self) -> None:
        """The machine runs, in one QEMU and one pod."""

        def alone() -> bool:
            pods = [pod["metadata"]["name"] for pod in self.cluster.list(POD, "default")]
            ours = [name for name in pods if name.startswith(f"vm-{NAME}")]
            return self.status.get("phase") == "Running" and ours == [self.pod] and len(qemus()) == 1

        eventually(alone, "one QEMU for the machine", PATIENCE_S, INTERVAL_S)
        self.counts_on()


def qemus() -> list[int]:
    """The processes of the machine's QEMU, on whatever node."""
    return [pid for pid, command in commands() if f"guest=default/{NAME}" in command]


def commands() -> Iterator[tuple[int, list[str]]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if command[0].endswith("qemu-system-x86_64"):
            yield int(folder.name), command


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, guest: Path) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("migration")
    shared = folder / "shared"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVCR__NODE__SHARED_VOLUMES_DIR", str(shared))
        patch.setenv("DVCR__MIGRATION__BANDWIDTH_BYTES", str(BANDWIDTH_BYTES))
        with running_product(folder / "data") as product, second_node(product, shared):
            site = Site(product)
            eventually(lambda: site.cluster.get(NODE, "second"), "the second node", PATIENCE_S, INTERVAL_S)
            root = disk("mover-root", "mover-image")
            root["spec"]["persistentVolumeClaim"]["storageClassName"] = "shared"
            with serve_folder(guest.parent) as base_url:
                product.apply(
                    cluster_image("mover-image", f"{base_url}/{guest.name}"),
                    root,
                    machine(NAME, "mover-root", user_data=COUNTER),
                )
                product.wait_for_phase("vm", NAME, "Running", timeout_s=PATIENCE_S)
            site.counts_on()
            yield site


def test_a_machine_is_migrated_and_its_guest_counts_on_without_a_gap(site: Site) -> None:
    before, first_pod = site.node, site.pod
    seen: list[bytes] = []
    follower = threading.Thread(
        target=lambda: seen.extend(site.cluster.logs(first_pod, "default", follow=True)), daemon=True
    )
    follower.start()

    site.ask("migrate", "Migrate")

    assert site.outcome("migrate")["phase"] == "Completed"
    assert site.node != before
    site.runs_once()
    follower.join(PATIENCE_S)
    there = b"".join(site.cluster.logs(site.pod, "default"))
    counted = [int(n) for n in re.findall(rb"count=(\d+)\r?\n", b"".join(seen) + there)]
    assert counted == list(range(1, len(counted) + 1))
    migration = site.status["migration"]
    assert migration["phase"] == "Completed"
    print("downtime, total in ms:", migration["downtimeMilliseconds"], migration["totalMilliseconds"])


def test_a_target_that_is_killed_leaves_the_machine_where_it_is(site: Site) -> None:
    before = site.node
    site.ask("killed-target", "Migrate")
    site.is_moving()
    kill(next(pid for pid, command in commands() if "-incoming" in command and pid not in source_qemus(site)))

    assert site.outcome("killed-target")["phase"] == "Failed"
    assert site.node == before
    site.runs_once()


def source_qemus(site: Site) -> list[int]:
    """QEMU processes that run as long as the machine is in its present pod."""
    oldest = sorted(qemus(), key=lambda pid: (Path("/proc") / str(pid)).stat().st_ctime)
    return oldest[:1]


def test_a_controller_that_is_killed_half_way_goes_on(site: Site) -> None:
    before = site.node
    site.ask("killed-controller", "Evict")
    site.is_moving()
    kill(part_of(site.product, "controller"))

    assert site.outcome("killed-controller")["phase"] == "Completed"
    assert site.node != before
    site.runs_once()


def test_a_node_is_drained_and_its_machine_runs_on(site: Site) -> None:
    before, counted = site.node, site.count()

    output = site.product.dvcr("node", "drain", before).stdout

    assert f"node/{before} is empty" in output
    assert site.node != before
    site.runs_once()
    assert site.count() > counted
    node = site.cluster.get(NODE, before)
    assert node is not None
    assert node["spec"]["unschedulable"] is True
    site.product.dvcr("node", "uncordon", before)


def test_a_source_that_is_killed_half_way_leaves_one_machine(site: Site) -> None:
    site.ask("killed-source", "Migrate")
    site.is_moving()
    kill(source_qemus(site)[0])

    assert site.outcome("killed-source")["phase"] == "Failed"
    # Crashed, so it starts anew.
    site.runs_once()
