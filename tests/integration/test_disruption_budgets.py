"""Evictions of a machine's pod under a real kube-apiserver: with its budget alone, and with the webhook before it.

The disruption controller is Kubernetes' own; node and launchers are played by the test.
"""

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from controller.api.eviction import REQUESTED_ANNOTATION
from controller.api.resource import (
    DISK,
    DISRUPTION_BUDGET,
    MACHINE,
    NODE,
    OPERATION,
    POD,
    SECRET,
    STORAGE_CLASS,
    VALIDATING_WEBHOOKS,
)
from controller.disks.storage_class import ACCESS_MODE_ANNOTATION
from controller.launcher.spec import (
    DiskStatus,
    MachineSpec,
    MachineState,
    MachineStatus,
    MigrationState,
    MigrationStatus,
)
from controller.machines.authority import MachineAuthority
from controller.runtime.index import Object
from controller.service import Service
from controller.webhooks.registration import NAME
from controller.webhooks.site import WebhookSite
from dvcr.config import ControllerSettings, WebhookSettings
from tests.integration.test_controller_process import Running
from tests.support.kubernetes import KubernetesProcess
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

CONTROLLERS = "serviceaccount-controller,garbage-collector-controller,disruption-controller"
RUNNING = MachineStatus(
    state=MachineState.RUNNING, accelerator="tcg", disks=(DiskStatus(name="vmd-data", size_bytes=2**20),)
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesProcess]:
    """A control plane with two nodes and disks that both can open."""
    process = KubernetesProcess(tmp_path_factory.mktemp("kubernetes"), controllers=CONTROLLERS)
    with process:
        yield process


@pytest.fixture(scope="module")
def running(server: KubernetesProcess) -> Iterator[Running]:
    """The controller, without its webhooks, and a machine that could move."""
    controller = Running(server)
    try:
        cluster = controller.cluster
        shared = {"name": "shared", "annotations": {ACCESS_MODE_ANNOTATION: "ReadWriteMany"}}
        cluster.create(STORAGE_CLASS, {"metadata": shared, "provisioner": "example.com/nobody"})
        for name in ("node", "other"):
            cluster.create(NODE, {"metadata": {"name": name}})
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            cluster.patch(NODE, name, {"status": ready}, None, "status")
        controller.launchers.status = None
        controller.launchers.of_pod["vm-web"] = RUNNING
        controller.apply(DISK, "data", {"persistentVolumeClaim": {"size": "1Mi", "storageClassName": "shared"}})
        controller.bind("vmd-data")
        yield controller
    finally:
        controller.stop()


@pytest.fixture(autouse=True)
def machine(running: Running) -> Iterator[None]:
    """The machine `web`, which runs."""
    device = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "data"}}
    running.apply(MACHINE, "web", {"cpu": {"cores": 1}, "memory": {"size": "128Mi"}, "blockDevices": [device]})
    running.run_pod("vm-web")
    running.wait_phase(MACHINE, "web", "Running")
    eventually(lambda: [healthy(each) for each in budgets(running)] == [(1, 1, 0)], "its budget is reckoned", 60)
    yield
    running.cluster.delete(MACHINE, "web", "default")
    eventually(lambda: remove_stopping(running), "the machine is gone", 60)


def remove_stopping(running: Running) -> bool:
    """Play the node for pods that stop; whether all is gone."""
    pods = running.cluster.list(POD)
    for pod in pods:
        if "deletionTimestamp" in pod["metadata"]:
            running.cluster.delete(POD, pod["metadata"]["name"], "default", grace_period_s=0)
    return not pods and running.get(MACHINE, "web") is None and budgets(running) == []


def budgets(running: Running) -> list[Object]:
    return running.cluster.list(DISRUPTION_BUDGET, "default")


def healthy(budget: Object) -> tuple[int, int, int]:
    """How many pods the budget wants, has, and could spare, as Kubernetes tells."""
    status = budget.get("status") or {}
    return status.get("desiredHealthy", -1), status.get("currentHealthy", -1), status.get("disruptionsAllowed", -1)


def evict(server: KubernetesProcess, pod: str) -> tuple[int, str]:
    """The answer's code and message."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}}
    url = f"{server.url}/api/v1/namespaces/default/pods/{pod}/eviction"
    answer = server.session().post(url, json=eviction, timeout=30)
    return answer.status_code, answer.json().get("message", "")


def test_without_a_webhook_a_machine_that_runs_is_not_evicted(server: KubernetesProcess, running: Running) -> None:
    code, message = evict(server, "vm-web")

    assert (code, message) == (429, "Cannot evict pod as it would violate the pod's disruption budget.")
    pod = running.get(POD, "vm-web")
    assert pod is not None
    assert "deletionTimestamp" not in pod["metadata"]
    assert REQUESTED_ANNOTATION not in pod["metadata"]["annotations"]


def test_a_budget_does_not_keep_a_pod_that_stops(server: KubernetesProcess, running: Running) -> None:
    running.apply(OPERATION, "stop", {"type": "Stop", "virtualMachineName": "web"})
    running.wait_phase(MACHINE, "web", "Stopping")

    assert evict(server, "vm-web")[0] == 201

    running.cluster.delete(POD, "vm-web", "default", grace_period_s=0)
    running.wait_phase(MACHINE, "web", "Stopped")
    eventually(lambda: budgets(running) == [], "its budget is collected", 60)


def test_a_budget_does_not_keep_a_pod_that_has_ended(server: KubernetesProcess, running: Running) -> None:
    # As what a machine has left, while no controller is there to remove it.
    running.stop()
    try:
        running.cluster.patch(POD, "vm-web", {"status": {"phase": "Succeeded"}}, "default", "status")

        assert evict(server, "vm-web")[0] == 201
    finally:
        running.start()


def test_with_the_webhook_a_drain_moves_the_machine_and_ends(server: KubernetesProcess, running: Running) -> None:
    settings = ControllerSettings(webhooks=WebhookSettings(enabled=True, external_name="127.0.0.1"))
    secret = running.get(SECRET, "vm-web")
    assert secret is not None
    specification = base64.b64decode(secret["data"]["machine.json"])
    running.launchers.specifications["vm-web"] = MachineSpec.model_validate_json(specification)
    with ExitStack() as stack:
        stack.enter_context(
            Service(WebhookSite(running.cluster, MachineAuthority(running.cluster, "default"), settings))
        )
        stack.callback(running.cluster.delete, VALIDATING_WEBHOOKS, NAME)
        eventually(lambda: is_moved_instead(server), "the webhook is asked", 60)
        drain = Drain(server)
        running.wait_phase(MACHINE, "web", "Migrating")
        target = only(running, lambda pod: pod["metadata"]["name"] != "vm-web")
        running.run_pod(target, "other")
        running.launchers.of_pod[target] = MachineStatus(state=MachineState.INCOMING, accelerator="tcg")
        eventually(lambda: running.launchers.order is not None, "the machine is sent", 30)
        eventually(lambda: [healthy(b) for b in budgets(running)] == [(1, 1, 0)] * 2, "both have budgets", 60)
        # Also where it arrives.
        assert evict(server, target)[0] == 429
        order = running.launchers.order
        assert order is not None
        sent = MigrationStatus(id=order.id, state=MigrationState.DONE)
        running.launchers.of_pod |= {"vm-web": RUNNING.model_copy(update={"migration": sent}), target: RUNNING}
        running.wait_phase(MACHINE, "web", "Running")
        eventually(lambda: is_stopping(running, "vm-web"), "the pod that the machine has left goes", 30)
        running.cluster.delete(POD, "vm-web", "default", grace_period_s=0)

        assert drain.finish() == 0, drain.told

    assert [healthy(each) for each in budgets(running)] == [(1, 1, 0)]
    moved = running.get(MACHINE, "web")
    assert moved is not None
    assert (moved["status"]["nodeName"], moved["status"]["activePod"]) == ("other", target)


class Drain(threading.Thread):
    """`kubectl drain` of the node that the machine runs on."""

    def __init__(self, server: KubernetesProcess) -> None:
        super().__init__(daemon=True)
        self._server = server
        self.code: int | None = None
        self.told = ""
        self.start()

    def run(self) -> None:
        done = self._server.try_kubectl("drain", "node", "--delete-emptydir-data", "--timeout=50s")
        self.code, self.told = done.returncode, done.stdout

    def finish(self) -> int | None:
        self.join(60)
        return self.code


def is_moved_instead(server: KubernetesProcess) -> bool:
    return "its virtual machine moves to another node first" in evict(server, "vm-web")[1]


def is_stopping(running: Running, pod: str) -> bool:
    return "deletionTimestamp" in (running.get(POD, pod) or {"metadata": {}})["metadata"]


def only(running: Running, fits: Callable[[Object], bool]) -> str:
    """Name of the one pod that fits."""

    def names() -> list[str]:
        return [pod["metadata"]["name"] for pod in running.cluster.list(POD) if fits(pod)]

    eventually(lambda: len(names()) == 1, "there is such a pod", 30)
    return names()[0]
