"""The controller as it runs, against a cluster; the node agent's part is played by the test."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from controller.api.resource import CLUSTER_IMAGE, DISK, MACHINE, OPERATION, POD, PVC, Resource
from controller.assembly import build_loops
from controller.cpumodels.default import ensure_default
from controller.runtime.cached import CachedCluster
from controller.runtime.cluster import Cluster, Object
from controller.runtime.process import ControllerProcess
from dvcr.config import Settings
from dvcr.jobs.job import JobProgress, JobState
from tests.support.cluster import ClusterProcess
from tests.support.jobs import MemoryJobBoard
from tests.support.waiting import eventually
from tests.unit.controller.test_reconcile_story import DISK_SPEC, IMAGE_SPEC, MACHINE_SPEC
from tests.unit.controller.world import MemoryImageRegistry, MemoryLaunchers

# After a restart kube-apiserver serves its own kinds many seconds before it serves others, and informers back off.
PATIENCE_S = 60


class Running:
    """A controller in threads."""

    def __init__(self, server: ClusterProcess) -> None:
        self.cluster = Cluster.connect(server.kubeconfig)
        self.board = MemoryJobBoard()
        self.registry = MemoryImageRegistry()
        self.launchers = MemoryLaunchers()
        ensure_default(self.cluster)
        self.start()

    def start(self) -> None:
        cached = CachedCluster(self.cluster)
        loops = build_loops(cached, self.board, self.registry, self.launchers, Settings())
        self._stopping = threading.Event()
        process = ControllerProcess(cached, loops, workers=2, resync_s=300)
        self._thread = threading.Thread(target=process.run, args=(self._stopping,))
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def apply(self, resource: Resource, name: str, spec: dict[str, Any]) -> Object:
        metadata = {"name": name} | ({"namespace": "default"} if resource.namespaced else {})
        obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": spec}
        return self.cluster.create(resource, obj, strict=True)

    def get(self, resource: Resource, name: str) -> Object | None:
        return self.cluster.get(resource, name, "default" if resource.namespaced else None)

    def wait_phase(self, resource: Resource, name: str, phase: str) -> None:
        def reached() -> bool:
            return ((self.get(resource, name) or {}).get("status") or {}).get("phase") == phase

        eventually(reached, f"{resource.kind} {name} {phase}", PATIENCE_S)

    def wait_gone(self, resource: Resource, name: str) -> None:
        eventually(lambda: self.get(resource, name) is None, f"{resource.kind} {name} is gone")

    def bind(self, claim: str) -> None:
        eventually(lambda: self.get(PVC, claim), f"claim {claim}")
        requests = (self.get(PVC, claim) or {})["spec"]["resources"]["requests"]
        status = {"status": {"phase": "Bound", "capacity": requests}}
        self.cluster.patch(PVC, claim, status, "default", "status")

    def run_pod(self, pod: str, node: str = "node") -> None:
        eventually(lambda: self.get(POD, pod), f"pod {pod}", PATIENCE_S)
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target}
        self.cluster.create_in(POD, pod, "default", "binding", binding)
        ready = {"phase": "Running", "podIP": "127.64.0.9", "conditions": [{"type": "Ready", "status": "True"}]}
        self.cluster.patch(POD, pod, {"status": ready}, "default", "status")


@pytest.fixture
def running(cluster: ClusterProcess) -> Iterator[Running]:
    controller = Running(cluster)
    yield controller
    controller.stop()


def test_the_main_job_and_a_restart_of_everything_in_the_middle(cluster: ClusterProcess, running: Running) -> None:
    image = running.apply(CLUSTER_IMAGE, "debian", IMAGE_SPEC)
    running.apply(DISK, "root", DISK_SPEC)
    running.apply(MACHINE, "web", MACHINE_SPEC)
    running.wait_phase(CLUSTER_IMAGE, "debian", "Provisioning")
    running.registry.add("cvmi/debian", image["metadata"]["uid"])
    running.board.report(image["metadata"]["uid"], JobProgress(state=JobState.SUCCEEDED))
    running.wait_phase(CLUSTER_IMAGE, "debian", "Ready")
    running.bind("vmd-root")
    running.wait_phase(DISK, "root", "Ready")

    cluster.kill()
    cluster.start()
    running.run_pod("vm-web")
    running.wait_phase(MACHINE, "web", "Running")

    running.stop()
    running.apply(OPERATION, "stop", {"type": "Stop", "virtualMachineName": "web"})
    running.start()
    running.wait_phase(MACHINE, "web", "Stopping")
    running.cluster.delete(POD, "vm-web", "default", grace_period_s=0)
    running.wait_phase(OPERATION, "stop", "Completed")
    running.wait_phase(MACHINE, "web", "Stopped")

    for resource, name in ((MACHINE, "web"), (DISK, "root"), (CLUSTER_IMAGE, "debian")):
        running.cluster.delete(resource, name, "default" if resource.namespaced else None)
    for resource, name in ((MACHINE, "web"), (DISK, "root"), (CLUSTER_IMAGE, "debian"), (PVC, "vmd-root")):
        running.wait_gone(resource, name)
    assert running.registry.images == {}


def test_an_image_that_was_in_use_goes_when_its_last_disk_does(running: Running) -> None:
    image = running.apply(CLUSTER_IMAGE, "debian", IMAGE_SPEC)
    running.apply(DISK, "root", DISK_SPEC)
    running.wait_phase(CLUSTER_IMAGE, "debian", "Provisioning")
    running.registry.add("cvmi/debian", image["metadata"]["uid"])
    running.board.report(image["metadata"]["uid"], JobProgress(state=JobState.SUCCEEDED))
    running.bind("vmd-root")
    running.apply(MACHINE, "web", MACHINE_SPEC)
    running.run_pod("vm-web")
    running.wait_phase(MACHINE, "web", "Running")

    def used() -> list[Object]:
        found: list[Object] = (running.get(CLUSTER_IMAGE, "debian") or {})["status"].get("usedInVMs", [])
        return found

    eventually(lambda: used() == [{"name": "web", "namespace": "default"}], "the machine is told")
    running.cluster.delete(CLUSTER_IMAGE, "debian")
    running.wait_phase(CLUSTER_IMAGE, "debian", "Terminating")
    running.cluster.delete(MACHINE, "web", "default")
    eventually(lambda: "deletionTimestamp" in (running.get(POD, "vm-web") or {})["metadata"], "the guest powers off")
    running.cluster.delete(POD, "vm-web", "default", grace_period_s=0)
    running.wait_gone(MACHINE, "web")
    eventually(lambda: used() == [], "no machine uses it")
    assert running.registry.images != {}
    running.cluster.delete(DISK, "root", "default")
    running.wait_gone(CLUSTER_IMAGE, "debian")
    assert running.registry.images == {}
