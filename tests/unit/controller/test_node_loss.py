"""A node that does not answer: its machines say that they wait for it."""

from typing import Any

import pytest

from controller.api.resource import MACHINE, NODE, POD
from tests.unit.controller.test_reconcile_story import running_machine
from tests.unit.controller.world import World, check_promises, operate

SILENT = "Kubelet stopped posting node status."
TOLD = f"node 'node' is not ready ({SILENT}): waits until it is back, or is removed from the cluster"


def tell_node(world: World, status: str, message: str = "") -> None:
    ready = {"type": "Ready", "status": status, "reason": "NodeStatus", "message": message}
    world.cluster.set_status(NODE, "node", None, conditions=[ready])


def tell_pod(world: World, *, ready: bool) -> None:
    """As the cluster does for the pods of a node that it does not hear of."""
    conditions = [{"type": "Ready", "status": str(ready)}]
    world.cluster.set_status(POD, "vm-web", "default", conditions=conditions)
    world.settle()


@pytest.fixture
def world() -> World:
    made = World()
    made.cluster.create(NODE, {"metadata": {"name": "node"}, "spec": {}})
    tell_node(made, "True")
    running_machine(made)
    return made


def lose(world: World) -> None:
    tell_node(world, "Unknown", SILENT)
    world.launchers.status = None
    tell_pod(world, ready=False)


def running(world: World) -> dict[str, Any]:
    return world.condition(MACHINE, "web", "Running")


def test_a_machine_waits_for_its_node_and_goes_on_with_it(world: World) -> None:
    answer = world.launchers.status
    lose(world)
    assert (running(world)["status"], running(world)["message"]) == ("False", TOLD)
    assert world.status(MACHINE, "web")["message"] == TOLD
    tell_node(world, "True")
    world.launchers.status = answer
    tell_pod(world, ready=True)
    assert running(world)["message"] == "the guest runs"
    assert "message" not in world.status(MACHINE, "web")


def test_a_machine_that_is_to_stop_on_a_lost_node_says_so(world: World) -> None:
    lose(world)
    operate(world, "Stop")
    assert running(world)["message"] == f"the guest was asked to power off; {TOLD}"
    world.finish_deletion()
    assert world.status(MACHINE, "web")["phase"] == "Stopped"
    assert "message" not in world.status(MACHINE, "web")


def test_a_machine_that_is_to_go_with_a_lost_node_says_so(world: World) -> None:
    lose(world)
    made = world.delete(MACHINE, "web")
    assert made is not None
    check_promises(MACHINE, made)
    assert running(world)["message"] == TOLD
    world.finish_deletion()
    assert world.find(MACHINE, "web") is None
