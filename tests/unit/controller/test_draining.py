"""Emptying a node: what is asked, told, waited for and given up."""

from collections.abc import Callable
from typing import Any

import pytest

from controller.api.resource import MACHINE, NODE, POD, Resource
from controller.cli.draining import Drain, cordon
from controller.runtime.errors import ClusterError
from dvcr.errors import ResourceError
from tests.support.memory_cluster import MemoryCluster

Object = dict[str, Any]
LABEL = "vm.virtualization.deckhouse.io/name"


class Nodes(MemoryCluster):
    """Evictions as the API server answers them: machines' pods with 429, others are deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.evictions: list[str] = []

    def list(self, resource: Resource, namespace: str | None = None, *_: str, **selectors: str) -> "list[Object]":
        node = selectors.get("field_selector", "").removeprefix("spec.nodeName=")
        return [obj for obj in super().list(resource, namespace) if not node or obj["spec"].get("nodeName") == node]

    def create_in(self, resource: Resource, name: str, namespace: str, subresource: str, obj: Object) -> Object:
        self.evictions.append(name)
        pod = self.get(resource, name, namespace) or {}
        if LABEL in pod["metadata"].get("labels", {}):
            raise ClusterError("Cannot evict pod", status=429, reason="TooManyRequests")
        self.delete(resource, name, namespace, grace_period_s=0)
        return {}


class Story:
    """Time passes only while the drain sleeps; at each of these moments something happens."""

    def __init__(self, cluster: Nodes, *happens: Callable[[], None]) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self._happens = list(happens)
        self._cluster = cluster

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self._happens:
            self._happens.pop(0)()

    def drain(self, *, force: bool = False, timeout_s: float = 60) -> None:
        Drain(self._cluster, "a", self.said.append, force=force, sleep=self.sleep, clock=lambda: self.now).run(
            timeout_s
        )


@pytest.fixture
def cluster() -> Nodes:
    cluster = Nodes()
    cluster.create(NODE, {"metadata": {"name": "a"}, "spec": {}})
    return cluster


def pod(cluster: Nodes, name: str, machine: str = "", phase: str = "Running") -> None:
    labels = {LABEL: machine} if machine else {}
    metadata = {"name": name, "namespace": "default", "labels": labels}
    cluster.create(POD, {"metadata": metadata, "spec": {"nodeName": "a"}})
    cluster.set_status(POD, name, "default", phase=phase)


def machine(cluster: Nodes, *conditions: tuple[str, str, str]) -> None:
    told = [{"type": kind, "status": status, "message": message} for kind, status, message in conditions]
    if cluster.get(MACHINE, "web", "default") is None:
        cluster.create(MACHINE, {"metadata": {"name": "web", "namespace": "default"}})
    cluster.set_status(MACHINE, "web", "default", conditions=told)


def test_other_pods_are_evicted_and_ended_ones_left_alone(cluster: Nodes) -> None:
    pod(cluster, "job")
    pod(cluster, "done", phase="Succeeded")
    story = Story(cluster)

    story.drain()

    assert cluster.evictions == ["job"]
    assert story.said == ["node/a takes no new pods", "default/job: stops", "default/job has left"]
    node = cluster.get(NODE, "a")
    assert node is not None
    assert node["spec"] == {"unschedulable": True}


def test_a_machine_is_asked_for_again_and_its_progress_told(cluster: Nodes) -> None:
    pod(cluster, "vm-web", "web")
    machine(cluster, ("Migratable", "True", "ok"))
    story = Story(
        cluster,
        lambda: machine(cluster, ("Migratable", "True", "ok"), ("Migrating", "True", "512 MiB are left")),
        *([lambda: None] * 12),
        lambda: cluster.delete(POD, "vm-web", "default", grace_period_s=0),
    )

    story.drain()

    assert cluster.evictions == ["vm-web", "vm-web"]
    assert story.said[1:] == ["default/vm/web: 512 MiB are left", "default/vm/web has left"]


def test_a_machine_that_cannot_move_is_named_with_the_reason(cluster: Nodes) -> None:
    pod(cluster, "vm-web", "web")
    machine(cluster, ("Migratable", "False", "its disk is on this node"))

    with pytest.raises(ResourceError, match=r"default/vm/web: its disk is on this node\. Power off .* --force"):
        Story(cluster).drain()


@pytest.mark.parametrize("force", [False, True])
def test_a_machine_that_has_moved_need_not_move_again(cluster: Nodes, force: bool) -> None:
    pod(cluster, "vm-web", "web")
    machine(cluster, ("Migratable", "False", "there is no other node"))
    cluster.set_status(MACHINE, "web", "default", nodeName="b")
    story = Story(cluster, lambda: cluster.delete(POD, "vm-web", "default", grace_period_s=0))

    story.drain(force=force)

    assert story.said[1:] == ["default/vm/web: has moved to node b", "default/vm/web has left"]


def test_force_powers_off_what_cannot_move(cluster: Nodes) -> None:
    pod(cluster, "vm-web", "web")
    machine(cluster, ("Migratable", "False", "its disk is on this node"))
    story = Story(cluster, lambda: cluster.delete(POD, "vm-web", "default", grace_period_s=0))

    story.drain(force=True)

    assert "default/vm/web: is powered off" in story.said


def test_a_drain_ends_in_time(cluster: Nodes) -> None:
    pod(cluster, "vm-web", "web")
    machine(cluster, ("Migratable", "True", "ok"), ("Migrating", "True", "on its way"))

    with pytest.raises(ResourceError, match="not empty within 10 s: default/vm/web: on its way"):
        Story(cluster).drain(timeout_s=10)


def test_a_node_that_is_not_there_is_named(cluster: Nodes) -> None:
    with pytest.raises(ResourceError, match="no node 'b'"):
        cordon(cluster, "b", unschedulable=True)
