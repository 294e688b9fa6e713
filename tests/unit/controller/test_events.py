"""What becomes an event, and that the same again only counts up."""

from typing import Any

import pytest

from controller.api.resource import EVENT, MACHINE
from controller.runtime.events import record_event
from controller.runtime.subject import Transition, transitions
from tests.support.memory_cluster import MemoryCluster
from tests.unit.controller.test_reconcile_story import running_machine
from tests.unit.controller.world import World

MACHINE_OBJECT = {
    "apiVersion": "virtualization.deckhouse.io/v1alpha2",
    "kind": "VirtualMachine",
    "metadata": {"name": "web", "namespace": "default", "uid": "u-1"},
}


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def test_the_same_again_counts_up() -> None:
    cluster = MemoryCluster()

    for now in ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"):
        record_event(cluster, MACHINE_OBJECT, "Stopped", "switched off", now=now)
    record_event(cluster, MACHINE_OBJECT, "Stopped", "the guest powered off", now="2026-01-01T00:02:00Z", warning=True)

    first, second = cluster.list(EVENT)
    assert (first["count"], first["firstTimestamp"], first["lastTimestamp"], first["type"]) == (
        2, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", "Normal",
    )  # fmt: skip
    assert (second["count"], second["type"]) == (1, "Warning")
    assert first["involvedObject"] == {
        "apiVersion": "virtualization.deckhouse.io/v1alpha2",
        "kind": "VirtualMachine",
        "name": "web",
        "namespace": "default",
        "uid": "u-1",
    }


def test_a_new_phase_is_told_with_the_main_conditions_message() -> None:
    after = {"phase": "Running", "conditions": [condition("Running", "True", "Running", "the guest runs")]}

    assert list(transitions({"phase": "Starting"}, after)) == [Transition("Running", "the guest runs")]


def test_a_condition_that_turns_is_told_and_one_that_only_says_more_is_not() -> None:
    before = {"phase": "Running", "conditions": [condition("AgentReady", "False", "NotConnected")]}
    turned = {"phase": "Running", "conditions": [condition("AgentReady", "True", "Connected", "the agent answers")]}
    reworded = {"phase": "Running", "conditions": [condition("AgentReady", "False", "NotConnected", "since 9 s")]}

    assert list(transitions(before, turned)) == [Transition("AgentReady", "the agent answers")]
    assert list(transitions(before, reworded)) == []


def test_the_first_word_of_a_condition_is_told_only_where_something_happens() -> None:
    agent = condition("AgentReady", "False", "NotConnected")
    move = condition("Migrating", "True", "Preparing", "a pod on another node is made")

    told = transitions({"phase": "Running"}, {"phase": "Running", "conditions": [agent, move]})

    assert list(told) == [Transition("Migrating", "a pod on another node is made")]


def test_with_a_new_phase_only_conditions_that_turn_for_the_worse_are_told_too() -> None:
    lost, found = (
        condition("BlockDevicesReady", "False", "DiskNotReady"),
        condition("BlockDevicesReady", "True", "Ready"),
    )
    before = {"phase": "Pending", "conditions": [lost]}
    after = {"phase": "Scheduling", "conditions": [found]}

    assert [told.reason for told in transitions(before, after)] == ["Scheduling"]
    assert [told.reason for told in transitions(after, before)] == ["Pending", "DiskNotReady"]


def test_what_only_says_that_the_machine_is_off_is_not_told() -> None:
    off = {"phase": "Stopped", "conditions": [condition("Migratable", "False", "NotRunning")]}
    on = {"phase": "Stopped", "conditions": [condition("Migratable", "False", "DisksNotShared")]}

    assert list(transitions(on, off)) == list(transitions(off, on)) == []


def test_a_failed_phase_is_a_warning() -> None:
    after = {"phase": "Failed", "failureMessage": "404", "conditions": [condition("Ready", "False", "NotFound", "x")]}

    assert list(transitions({}, after)) == [Transition("Failed", "404", warning=True)]


@pytest.mark.parametrize(("reason", "told"), [("ImageNotReady", []), ("ImageNotFound", ["Pending"])])
def test_a_new_object_tells_what_it_waits_for_unless_that_is_on_its_way(reason: str, told: list[str]) -> None:
    waiting = {"phase": "Pending", "conditions": [condition("Ready", "False", reason, "waits")]}

    assert [transition.reason for transition in transitions({}, waiting)] == told
    assert [transition.reason for transition in transitions({"phase": "Ready"}, waiting)] == ["Pending"]


def test_a_machine_tells_its_life() -> None:
    world = World()
    running_machine(world)
    world.change(MACHINE, "web", {"cpu": {"cores": 4}})
    world.end_pod("GuestPanic", "the guest's kernel panicked")
    told = [(e["reason"], e["message"]) for e in world.cluster.list(EVENT) if e["involvedObject"]["name"] == "web"]

    assert told == [
        ("Scheduling", "waits for a node to run on"),
        ("Running", "the guest runs"),
        ("RestartRequired", "wait for a restart: cpu.cores"),
        ("Stopped", "the guest's kernel panicked"),
        ("Failed", "the guest's kernel panicked"),
    ]
