"""The budgets of machines' pods: one for each that runs, and none that stands in the way of one that ends."""

from typing import Any

import pytest

from controller.api.resource import DISRUPTION_BUDGET, MACHINE, POD
from controller.launcher.spec import MigrationState
from tests.unit.controller.test_reconcile_migrations import (
    RUNNING,
    begin,
    moving_world,
    run_target,
    sends,
)
from tests.unit.controller.test_reconcile_story import running_machine
from tests.unit.controller.world import World, operate

NAME, MOVE = "vm.virtualization.deckhouse.io/name", "vm.virtualization.deckhouse.io/move"


def budgets(world: World) -> list[dict[str, Any]]:
    return world.cluster.list(DISRUPTION_BUDGET, "default")


def selected(world: World, budget: dict[str, Any]) -> list[str]:
    """Names of the pods that the budget is for."""
    selector = budget["spec"]["selector"]
    [expression] = selector["matchExpressions"]

    def matches(labels: dict[str, str]) -> bool:
        value = labels.get(expression["key"])
        fits = value is None if expression["operator"] == "DoesNotExist" else value in expression["values"]
        return fits and selector["matchLabels"].items() <= labels.items()

    return [pod["metadata"]["name"] for pod in world.cluster.list(POD) if matches(pod["metadata"]["labels"])]


def test_the_pod_of_a_machine_has_one() -> None:
    world = World()
    running_machine(world)
    uid = world.get(POD, "vm-web")["metadata"]["uid"]

    [budget] = budgets(world)

    assert budget["metadata"].items() >= {
        "name": f"vm-web-{uid[:8]}",
        "namespace": "default",
        "labels": {NAME: "web"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "vm-web", "uid": uid}],
    }.items()  # fmt: skip
    assert {key: budget[key] for key in ("apiVersion", "kind", "spec")} == {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "spec": {
            "minAvailable": 1,
            "selector": {
                "matchLabels": {NAME: "web"},
                "matchExpressions": [{"key": MOVE, "operator": "DoesNotExist"}],
            },
        },
    }


def test_one_that_somebody_deleted_is_made_again() -> None:
    world = World()
    running_machine(world)
    [before] = budgets(world)
    world.cluster.delete(DISRUPTION_BUDGET, before["metadata"]["name"], "default")

    world.settle()

    [after] = budgets(world)
    assert after["spec"] == before["spec"]


@pytest.mark.parametrize("ended", [False, True])
def test_a_pod_that_stops_or_has_ended_is_given_none(ended: bool) -> None:
    world = World()
    running_machine(world, runPolicy="Manual")
    operate(world, "Start")
    world.run_pod()
    [budget] = budgets(world)
    if ended:
        world.cluster.set_status(POD, "vm-web", "default", phase="Succeeded")
    else:
        operate(world, "Stop", "stop")
    world.cluster.delete(DISRUPTION_BUDGET, budget["metadata"]["name"], "default")

    world.settle()

    assert budgets(world) == []


def test_a_machine_that_is_deleted_is_given_none() -> None:
    world = World()
    running_machine(world)
    [budget] = budgets(world)
    # As while a namespace goes, in which nothing can be made any more.
    world.cluster.delete(DISRUPTION_BUDGET, budget["metadata"]["name"], "default")
    world.cluster.delete(MACHINE, "web", "default")

    world.settle()

    assert budgets(world) == []


def test_it_goes_with_its_pod_and_the_next_pod_has_its_own() -> None:
    world = World()
    running_machine(world)
    [first] = budgets(world)
    operate(world, "Restart")
    world.finish_deletion()

    [second] = budgets(world)

    assert second["metadata"]["ownerReferences"][0]["uid"] == world.get(POD, "vm-web")["metadata"]["uid"]
    assert second["metadata"]["name"] != first["metadata"]["name"]


def test_while_a_machine_moves_each_pod_has_its_own_and_no_pod_two() -> None:
    world = moving_world()
    # What users call their labels is not to confuse the two pods.
    world.cluster.patch(MACHINE, "web", {"metadata": {"labels": {MOVE: "mine"}}}, "default")
    name = begin(world)

    assert sorted(selected(world, budget) for budget in budgets(world)) == [["vm-web"], [name]]
    # Neither may go: a pod that is not ready is as many too few as one that goes.
    assert {budget["spec"]["minAvailable"] for budget in budgets(world)} == {1}

    sends(world, MigrationState.DONE)
    world.launchers.of_pod[name] = RUNNING
    run_target(world, name)
    world.finish_deletion()

    [left] = budgets(world)
    assert selected(world, left) == [name]
    assert world.get(POD, name)["metadata"]["labels"] == {NAME: "web", MOVE: name.removeprefix("vm-web-")}
