"""`dvcr node` as a process: killed, started again, stopped."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.api.pod_claims import ADDITIONAL_CLAIMS_ANNOTATION
from controller.api.resource import POD, PVC
from controller.local.node.devices import BlockDevices
from controller.runtime.cluster import Cluster
from dvcr.config import as_environment
from tests.support.cluster import ClusterProcess
from tests.support.pod_processes import pod_processes
from tests.support.waiting import eventually

_DVCR_NODE = """
from controller.local.node.commands import register
from dvcr.cli.main import app
register(app)
app(["node"], prog_name="dvcr")
"""


class NodeProcess:
    def __init__(self, cluster: ClusterProcess, data_dir: Path) -> None:
        self.name = f"node-{uuid.uuid4().hex[:8]}"
        node = {"name": self.name, "data_dir": data_dir, "pod_cidr": "127.98.0.0/16"}
        self._env = as_environment({"node": node, "controller": {"kubeconfig": cluster.kubeconfig}})
        self.data_dir = data_dir
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _DVCR_NODE], env=os.environ | self._env, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert "ready" in self.process.stdout.readline()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def node(shared_cluster: ClusterProcess, tmp_path: Path) -> Iterator[NodeProcess]:
    node = NodeProcess(shared_cluster, tmp_path)
    yield node
    if node.process.poll() is None:
        node.end(signal.SIGTERM)
    for pid in pod_processes(node.data_dir):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def api(shared_cluster: ClusterProcess) -> Iterator[Cluster]:
    api = Cluster.connect(shared_cluster.kubeconfig)
    yield api
    for pod in api.list(POD):
        api.delete(POD, pod["metadata"]["name"], "default", grace_period_s=0)


def start_pod(api: Cluster, name: str, script: str, policy: str = "Never") -> None:
    container = {"name": "main", "image": "none", "command": ["sh", "-c", script]}
    spec = {
        "restartPolicy": policy, "terminationGracePeriodSeconds": 5, "automountServiceAccountToken": False,
        "containers": [container],
    }  # fmt: skip
    metadata = {"name": name, "namespace": "default"}
    api.create(POD, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def state(api: Cluster, name: str) -> dict[str, Any]:
    pod = api.get(POD, name, "default")
    statuses = (pod or {}).get("status", {}).get("containerStatuses")
    return dict(statuses[0]) if statuses else {"state": {}}


def test_a_killed_agent_takes_its_pods_up_again(node: NodeProcess, api: Cluster) -> None:
    start_pod(api, "lives", "echo up; exec sleep 1000")
    start_pod(api, "ends", "echo up; sleep 1; exit 5")
    start_pod(api, "deleted", "exec sleep 1000")
    for name in ("lives", "ends", "deleted"):
        eventually(lambda name=name: "running" in state(api, name)["state"], f"{name} runs")  # type: ignore[misc]
    before = state(api, "lives")
    address = (api.get(POD, "lives", "default") or {})["status"]["podIP"]
    node.end(signal.SIGKILL)
    assert len(pod_processes(node.data_dir)) >= 3
    api.delete(POD, "deleted", "default", grace_period_s=0)
    eventually(lambda: len(pod_processes(node.data_dir)) == 1 + 1, "one of the containers ends by itself meanwhile")

    node.start()
    eventually(lambda: "terminated" in state(api, "ends")["state"], "the exit meanwhile is told")
    assert state(api, "ends")["state"]["terminated"]["exitCode"] == 5
    eventually(lambda: len(pod_processes(node.data_dir)) == 1, "the pod that was deleted meanwhile is killed")
    assert state(api, "lives") == before
    start_pod(api, "next", "exec sleep 1000")
    eventually(lambda: "running" in state(api, "next")["state"], "a new pod runs")
    assert (api.get(POD, "next", "default") or {})["status"]["podIP"] != address
    assert b"".join(api.logs("lives", "default")) == b"up\n"

    api.delete(POD, "lives", "default")
    eventually(lambda: api.get(POD, "lives", "default") is None, "an adopted pod can be deleted")


def test_sigterm_stops_the_pods_and_leaves_nothing(node: NodeProcess, api: Cluster) -> None:
    start_pod(api, "polite", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    eventually(lambda: "running" in state(api, "polite")["state"], "running")
    eventually(lambda: b"up" in b"".join(api.logs("polite", "default")), "it has set its trap")
    assert node.end(signal.SIGTERM) == 0
    assert pod_processes(node.data_dir) == []
    pod = api.get(POD, "polite", "default")
    assert pod is not None
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "Terminated")
    assert state(api, "polite")["state"]["terminated"]["exitCode"] == 0


def test_pods_outlive_the_api(cluster: ClusterProcess, tmp_path: Path) -> None:
    node = NodeProcess(cluster, tmp_path / "node")
    api = Cluster.connect(cluster.kubeconfig)
    try:
        start_pod(api, "lives", "exec sleep 1000")
        start_pod(api, "ends", "sleep 1; exit 5")
        for name in ("lives", "ends"):
            eventually(lambda name=name: "running" in state(api, name)["state"], f"{name} runs")  # type: ignore[misc]
        cluster.kill()
        eventually(lambda: len(pod_processes(node.data_dir)) == 1, "a pod ends while there is no API")
        cluster.start()
        eventually(lambda: "terminated" in state(api, "ends")["state"], "its exit is told")
        assert "running" in state(api, "lives")["state"]
        start_pod(api, "deleted", "trap '' TERM; echo up; while :; do sleep 0.05; done")
        eventually(lambda: "running" in state(api, "deleted")["state"], "running")
        eventually(lambda: b"up" in b"".join(api.logs("deleted", "default")), "it has set its trap")
        api.delete(POD, "deleted", "default")
        cluster.kill()
        assert node.end(signal.SIGTERM) == 0
        assert pod_processes(node.data_dir) == []
        cluster.start()
        node.start()
        eventually(lambda: api.get(POD, "deleted", "default") is None, "the next agent ends its deletion")
    finally:
        if node.process.poll() is None:
            node.end(signal.SIGTERM)


def test_two_agents_share_one_api(
    node: NodeProcess, api: Cluster, shared_cluster: ClusterProcess, tmp_path: Path
) -> None:
    other = NodeProcess(shared_cluster, tmp_path / "other")
    try:
        for number in range(4):
            start_pod(api, f"shared-{number}", "exec sleep 1000")
        for number in range(4):
            eventually(lambda n=number: "running" in state(api, f"shared-{n}")["state"], "running")  # type: ignore[misc]
        pods = [p for p in api.list(POD) if p["metadata"]["name"].startswith("shared-")]
        assert {p["spec"]["nodeName"] for p in pods} <= {node.name, other.name}
        # The other node's folder is inside this one's.
        assert len(pod_processes(node.data_dir)) == 4, "each pod runs once"
        assert len({p["status"]["podIP"] for p in pods}) == 4, "addresses are the machine's, not the agent's"
    finally:
        other.end(signal.SIGTERM)


def test_a_killed_agent_knows_which_claims_came_while_the_pod_ran(node: NodeProcess, api: Cluster) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "late", "namespace": "default"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Block",
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }
    api.create(PVC, claim)
    start_pod(api, "open", "exec sleep 1000")
    eventually(lambda: "running" in state(api, "open")["state"], "it runs")
    uid = (api.get(POD, "open", "default") or {})["metadata"]["uid"]
    device = node.data_dir / "pods" / uid / "main/root/dev/late"

    def annotate(claims: dict[str, Any]) -> None:
        annotations = {ADDITIONAL_CLAIMS_ANNOTATION: json.dumps(claims)}
        api.patch(POD, "open", {"metadata": {"annotations": annotations}}, "default")

    annotate({"late": {"container": "main", "devicePath": "/dev/late"}})
    eventually(device.exists, "the device is there")
    target = device.readlink()
    node.end(signal.SIGKILL)
    node.start()
    eventually(lambda: "running" in state(api, "open")["state"], "it is taken up again")
    assert device.readlink() == target

    node.end(signal.SIGKILL)
    annotate({})
    node.start()
    eventually(lambda: not device.is_symlink(), "unmounted by the next agent")
    api.delete(POD, "open", "default", grace_period_s=0)
    eventually(lambda: BlockDevices(node.data_dir / "volumes").opened() == set(), "the device is given back")
    api.delete(PVC, "late", "default")
    eventually(lambda: api.get(PVC, "late", "default") is None, "the claim is gone")
