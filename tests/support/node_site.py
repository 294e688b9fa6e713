"""A node agent with real processes, on a cluster."""

import http.client
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.api.resource import EVENT, NODE, POD
from controller.local.node.agent import Agent
from controller.runtime.cluster import Cluster
from dvcr.config import NodeSettings
from tests.support.waiting import eventually

Object = dict[str, Any]
SLEEP = ("sh", "-c", "echo up; exec sleep 1000")


class Site:
    """A cluster and one node, with shorthands."""

    def __init__(self, cluster: Cluster, name: str, data_dir: Path) -> None:
        self.cluster = cluster
        self.name = name
        self.data_dir = data_dir
        self.agent = self.start()

    def start(self) -> Agent:
        settings = NodeSettings(name=self.name, data_dir=self.data_dir, pod_cidr="127.99.0.0/16")
        self.agent = Agent(settings, self.cluster)
        self.agent.start()
        return self.agent

    def clear(self) -> None:
        for pod in self.cluster.list(POD):
            self.cluster.delete(POD, pod["metadata"]["name"], "default", grace_period_s=0)
        self.agent.stop()

    def reasons(self) -> set[str]:
        return {event["reason"] for event in self.cluster.list(EVENT)}

    def pod(
        self, name: str, *command: str, policy: str = "Never", container: Object | None = None, **spec: Any
    ) -> Object:
        main = {"name": "main", "image": "none", "command": list(command)} | (container or {})
        return self.cluster.create(
            POD,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"restartPolicy": policy, "automountServiceAccountToken": False, "containers": [main], **spec},
            },
        )

    def status(self, name: str) -> Object:
        pod = self.cluster.get(POD, name, "default")
        return dict(pod["status"]) if pod else {"phase": "Gone"}

    def state(self, name: str) -> Object:
        statuses = self.status(name).get("containerStatuses")
        return dict(statuses[0]) if statuses else {"state": {}, "restartCount": -1, "ready": False}

    def until(self, name: str, condition: Callable[[Object, Object], object], what: str) -> None:
        try:
            eventually(lambda: condition(self.status(name), self.state(name)), what, 15)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; status: {self.status(name)}") from exc

    def until_phase(self, name: str, phase: str) -> None:
        self.until(name, lambda status, _: status["phase"] == phase, f"{name} {phase}")

    def root(self, pod: Object) -> Path:
        return self.data_dir / "pods" / str(pod["metadata"]["uid"]) / "main" / "root"

    def log(self, name: str, query: str = "") -> bytes:
        node = self.cluster.get(NODE, self.name)
        assert node is not None
        port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
        connection.request("GET", f"/containerLogs/default/{name}/main{query}")
        body = connection.getresponse().read()
        connection.close()
        return body
