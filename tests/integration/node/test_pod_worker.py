"""The worker of one pod with real processes; the API's part is played by the test."""

import threading
from pathlib import Path
from typing import Any

from controller.local.node.addresses import AddressPool
from controller.local.node.cgroups import CpuGroups
from controller.local.node.events import NodeEvents
from controller.local.node.pods import Node, PodWorker
from controller.local.node.process import Process
from controller.local.node.restarts import Backoff
from tests.support.waiting import eventually

Object = dict[str, Any]


class SlowApi:
    """Takes the pod's status, the first only when the pod's process has ended; and tells nobody of it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.phases: list[str] = []

    def patch(self, _resource: object, _name: str, patch: Object, *_: object) -> Object:
        running = "running" in patch["status"]["containerStatuses"][0]["state"]
        if running:
            eventually(lambda: not self._process.alive, "the process ends meanwhile")
        self.phases.append(patch["status"].get("phase", ""))
        return patch

    def create(self, _resource: object, obj: Object) -> Object:
        return obj


def test_a_process_that_ends_while_its_start_is_reported_is_reported_too(tmp_path: Path) -> None:
    uid = "5a1f0b1e"
    pod: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "short", "namespace": "default", "uid": uid},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "command": ["sleep", "0.5"]}]},
    }
    (tmp_path / "pods").mkdir()
    api: Any = SlowApi(Process(tmp_path / "pods" / uid / "main/0"))
    node = Node(
        "node", tmp_path, api, AddressPool("127.97.0.0/16"), NodeEvents(api, "node"), Backoff(), CpuGroups.find("node")
    )
    done = threading.Event()
    worker = PodWorker(node, uid, lambda: pod, lambda _uid: done.set())
    worker.start()
    try:
        eventually(lambda: api.phases[-1:] == ["Succeeded"], "its end is reported")
    finally:
        worker.shut_down()
        worker.join()
        node.addresses.close()
    assert done.is_set()
