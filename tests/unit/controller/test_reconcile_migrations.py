"""Machines that move: the whole way, what is in the way, and what goes wrong half-way."""

import base64
import json
from typing import Any

import pytest

from controller.api.eviction import REQUESTED_ANNOTATION
from controller.api.resource import MACHINE, NODE, OPERATION, POD, PVC, SECRET
from controller.launcher.spec import MachineSpec, MachineState, MachineStatus, MigrationState, MigrationStatus
from controller.runtime.conditions import write_time
from tests.unit.controller.test_reconcile_story import MACHINE_SPEC, running_machine
from tests.unit.controller.world import World, operate

RUNNING = MachineStatus(state=MachineState.RUNNING, accelerator="tcg")


def node(world: World, name: str, *, ready: bool = True, cordoned: bool = False) -> None:
    status = {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    spec = {"unschedulable": True} if cordoned else {}
    world.cluster.create(NODE, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec})
    world.cluster.set_status(NODE, name, None, **status)


@pytest.fixture
def world() -> World:
    return moving_world()


def moving_world(*cidrs: str) -> World:
    """A machine that runs on node `node`, with a shared disk, beside a node `other`."""
    world = World(cidrs=cidrs)
    world.launchers.status = None
    world.launchers.of_pod["vm-web"] = RUNNING
    running_machine(world)
    world.cluster.patch(PVC, "vmd-root", {"spec": {"accessModes": ["ReadWriteMany"]}}, "default")
    node(world, "node")
    node(world, "other")
    secret = world.get(SECRET, "vm-web")["data"]["machine.json"]
    world.launchers.specifications["vm-web"] = MachineSpec.model_validate_json(base64.b64decode(secret))
    world.settle()
    return world


def target(world: World) -> str:
    names = [pod["metadata"]["name"] for pod in world.cluster.list(POD) if pod["metadata"]["name"] != "vm-web"]
    assert len(names) == 1
    return str(names[0])


def sends(world: World, state: MigrationState, **more: Any) -> None:
    """What the source's launcher tells from now on."""
    uid = world.get(OPERATION, "op")["metadata"]["uid"]
    migration = MigrationStatus(id=uid, state=state, **more)
    world.launchers.of_pod["vm-web"] = RUNNING.model_copy(update={"migration": migration})


def begin(world: World) -> str:
    """The target pod waits on the other node, and the order was given."""
    operate(world, "Migrate")
    name = target(world)
    world.launchers.of_pod[name] = MachineStatus(state=MachineState.INCOMING, accelerator="tcg")
    run_target(world, name, ready=False)
    return name


def run_target(world: World, name: str, *, ready: bool = True) -> None:
    world.cluster.patch(POD, name, {"spec": {"nodeName": "other"}}, "default")
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    world.cluster.set_status(POD, name, "default", phase="Running", podIP="127.65.0.2", conditions=conditions)
    world.settle()


def test_a_machine_moves(world: World) -> None:
    assert world.condition(MACHINE, "web", "Migratable")["status"] == "True"
    name = begin(world)

    # The target is the machine as it is, on another node.
    pod = world.get(POD, name)
    terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node"]} in (
        terms["nodeSelectorTerms"][0]["matchExpressions"]
    )
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes["machine"]["secret"] == {"secretName": name}
    assert volumes["disk-0"]["persistentVolumeClaim"] == {"claimName": "vmd-root"}
    assert {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]} == volumes.keys()
    assert {"run", "snapshots", "cache"} <= volumes.keys()
    secret = world.get(SECRET, name)
    spec = json.loads(base64.b64decode(secret["data"]["machine.json"]))
    assert (spec["incoming"], spec["disks"][0]["name"]) == (True, "vmd-root")
    assert secret["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"]

    assert world.launchers.asked[0] == ("send", "vm-web")
    order = world.launchers.order
    assert order is not None
    assert (order.address, order.progress_timeout_s) == ("127.65.0.2", 150)
    sends(world, MigrationState.ACTIVE, total_bytes=2**30, remaining_bytes=2**29)
    world.settle()
    status = world.status(MACHINE, "web")
    assert (status["phase"], status["nodeName"], status["migration"]["phase"]) == ("Migrating", "node", "Moving")
    assert "512 of 1024 MiB" in world.condition(MACHINE, "web", "Migrating")["message"]
    assert world.status(OPERATION, "op")["phase"] == "InProgress"

    sends(world, MigrationState.DONE, downtime_ms=120, total_ms=3400)
    world.launchers.of_pod[name] = RUNNING
    # Its pod is not Ready yet: that is asked once a second.
    run_target(world, name, ready=False)
    status = world.status(MACHINE, "web")
    assert (status["phase"], status["nodeName"], status["activePod"]) == ("Running", "other", name)
    assert {world.condition(MACHINE, "web", kind)["status"] for kind in ("Running", "Migratable")} == {"True"}
    assert (status["migration"]["downtimeMilliseconds"], status["migration"]["totalMilliseconds"]) == (120, 3400)
    assert world.status(OPERATION, "op")["phase"] == "Completed"
    assert "deletionTimestamp" in world.get(POD, "vm-web")["metadata"]

    world.finish_deletion()
    assert "leftover" not in world.status(MACHINE, "web")["migration"]
    assert world.find(POD, name) is not None

    # Stopped and started, it is where it was first.
    operate(world, "Stop", "stop")
    world.end_pod("Stopped", pod=name)
    world.finish_deletion(name)
    assert world.status(MACHINE, "web")["phase"] == "Stopped"
    operate(world, "Start", "start")
    assert world.find(POD, "vm-web") is not None
    assert "activePod" not in world.status(MACHINE, "web")


def test_a_label_that_the_machine_loses_while_it_moves_is_lost_where_it_arrives(world: World) -> None:
    def label(zone: str | None) -> None:
        world.cluster.patch(MACHINE, "web", {"metadata": {"labels": {"zone": zone}}}, "default")
        world.settle()

    label("a")
    name = begin(world)
    label(None)
    assert world.get(POD, name)["metadata"]["labels"]["zone"] == "a"
    sends(world, MigrationState.DONE)
    world.launchers.of_pod[name] = RUNNING
    run_target(world, name)
    assert "zone" not in world.get(POD, name)["metadata"]["labels"]


def test_a_machine_that_is_off_and_one_whose_launcher_is_silent_cannot_move(world: World) -> None:
    world.launchers.of_pod["vm-web"] = None
    world.settle()
    condition = world.condition(MACHINE, "web", "Migratable")
    assert (condition["status"], condition["reason"]) == ("False", "LauncherUnavailable")
    world.launchers.of_pod["vm-web"] = RUNNING
    world.settle()
    assert world.condition(MACHINE, "web", "Migratable")["status"] == "True"

    operate(world, "Stop", "stop")
    assert world.condition(MACHINE, "web", "Migratable")["reason"] == "NotRunning"
    world.finish_deletion()
    condition = world.condition(MACHINE, "web", "Migratable")
    assert (condition["status"], condition["reason"]) == ("False", "NotRunning")
    operate(world, "Start", "start")
    assert world.condition(MACHINE, "web", "Migratable")["reason"] == "NotRunning"
    world.run_pod()
    assert world.condition(MACHINE, "web", "Migratable")["status"] == "True"


@pytest.mark.parametrize("state", [MigrationState.ACTIVE, MigrationState.FAILED])
def test_a_move_that_fails_leaves_the_machine_where_it_is(world: World, state: MigrationState) -> None:
    name = begin(world)
    sends(world, state, message="the network is gone")
    world.settle()
    if state is MigrationState.ACTIVE:
        world.finish_deletion(name)
        sends(world, MigrationState.FAILED, message="the network is gone")
        world.settle()

    status = world.status(MACHINE, "web")
    assert (status["phase"], status["nodeName"]) == ("Running", "node")
    assert (status["migration"]["phase"], status["migration"]["message"]) == ("Failed", "the network is gone")
    operation = world.status(OPERATION, "op")
    assert (operation["phase"], operation["failureReason"]) == ("Failed", "MigrationFailed")
    assert (world.find(POD, name) or {"metadata": {"deletionTimestamp": ""}})["metadata"][
        "deletionTimestamp"
    ] == "" or ("deletionTimestamp" in world.get(POD, name)["metadata"])
    assert "deletionTimestamp" not in world.get(POD, "vm-web")["metadata"]


def test_a_move_is_called_off_by_deleting_its_operation(world: World) -> None:
    begin(world)
    sends(world, MigrationState.ACTIVE)
    world.settle()

    world.delete(OPERATION, "op")

    assert ("cancel", "vm-web") in world.launchers.asked
    migration = world.launchers.of_pod["vm-web"]
    assert migration is not None
    assert migration.migration is not None
    stopped = migration.migration.model_copy(update={"state": MigrationState.FAILED, "message": "cancelled"})
    world.launchers.of_pod["vm-web"] = RUNNING.model_copy(update={"migration": stopped})
    world.settle()
    assert world.status(MACHINE, "web")["phase"] == "Running"


def test_a_source_that_died_after_it_had_left_is_no_loss(world: World) -> None:
    name = begin(world)
    world.launchers.of_pod[name] = MachineStatus(state=MachineState.RECEIVED, accelerator="tcg")
    world.end_pod("Moved")

    assert world.launchers.asked[-1] == ("resume", name)
    world.launchers.of_pod[name] = RUNNING
    run_target(world, name)
    assert world.status(MACHINE, "web")["nodeName"] == "other"


def test_a_source_that_crashed_half_way_is_a_crash(world: World) -> None:
    name = begin(world)
    sends(world, MigrationState.ACTIVE)

    world.end_pod("Failed", "QEMU was ended by signal 9")

    assert world.status(MACHINE, "web")["power"]["crashes"] == 1
    assert world.status(OPERATION, "op")["failureReason"] == "SourceEnded"
    assert "deletionTimestamp" in world.get(POD, name)["metadata"]
    world.finish_deletion(name)
    world.pass_time(10)
    world.settle()
    assert world.find(POD, "vm-web") is not None


def test_nothing_is_started_while_the_target_may_run_the_machine(world: World) -> None:
    name = begin(world)
    world.launchers.of_pod[name] = None
    world.finish_deletion("vm-web")
    waits = world.condition(MACHINE, "web", "Migrating")
    assert (waits["status"], waits["reason"]) == ("True", "TargetSilent")
    assert (world.find(POD, "vm-web"), "deletionTimestamp" in world.get(POD, name)["metadata"]) == (None, False)

    # Called off, it is stopped before anything new begins.
    world.delete(OPERATION, "op")
    assert "deletionTimestamp" in world.get(POD, name)["metadata"]
    assert world.find(POD, "vm-web") is None
    waits = world.condition(MACHINE, "web", "Running")
    assert (waits["reason"], name in waits["message"]) == ("OtherPodRuns", True)

    world.finish_deletion(name)
    assert world.find(POD, "vm-web") is not None


def test_a_target_that_answers_again_and_runs_the_machine_has_it(world: World) -> None:
    name = begin(world)
    world.launchers.of_pod[name] = None
    world.finish_deletion("vm-web")

    world.launchers.of_pod[name] = RUNNING
    run_target(world, name)

    assert world.status(OPERATION, "op")["phase"] == "Completed"
    assert (world.status(MACHINE, "web")["activePod"], world.find(POD, "vm-web")) == (name, None)


def test_a_target_that_is_lost_before_it_was_told_is_rolled_back(world: World) -> None:
    name = begin(world)
    sends(world, MigrationState.SENT)
    world.finish_deletion(name)

    assert world.launchers.asked[-1] == ("roll back", "vm-web")


def test_where_nobody_knows_neither_goes_on(world: World) -> None:
    name = begin(world)
    sends(world, MigrationState.SENT, told=True)
    world.finish_deletion(name)

    assert ("roll back", "vm-web") not in world.launchers.asked
    assert world.status(OPERATION, "op")["failureReason"] == "OutcomeUnknown"
    assert "deletionTimestamp" in world.get(POD, "vm-web")["metadata"]


@pytest.mark.parametrize(
    ("reason", "prepare"),
    [
        ("DisksNotShared", lambda w: w.cluster.patch(PVC, "vmd-root", {"spec": {"accessModes": ["X"]}}, "default")),
        ("NoOtherNode", lambda w: w.cluster.patch(NODE, "other", {"spec": {"unschedulable": True}})),
        ("NoOtherNode", lambda w: w.cluster.delete(NODE, "other")),
        ("NoOtherNode", lambda w: w.cluster.patch(MACHINE, "web", {"spec": {"nodeSelector": {"a": "b"}}}, "default")),
    ],
)
def test_what_is_in_the_way_is_told_before_and_when_asked(world: World, reason: str, prepare: Any) -> None:
    prepare(world)
    world.settle()

    assert world.condition(MACHINE, "web", "Migratable")["reason"] == reason
    operation = operate(world, "Migrate")
    assert (operation["phase"], operation["failureReason"]) == ("Failed", reason)
    assert world.status(MACHINE, "web")["phase"] == "Running"


def test_a_target_that_no_node_takes_is_given_up(world: World) -> None:
    operate(world, "Migrate")
    name = target(world)
    world.pass_time(301)
    world.settle()

    assert world.status(OPERATION, "op")["failureReason"] == "NoNode"
    assert world.find(POD, name) is None


def stopped_half_way(world: World, name: str) -> None:
    """As a controller leaves the machine that ends while it makes the target."""
    machine = world.get(MACHINE, "web")
    owner = {"apiVersion": "v1", "kind": "VirtualMachine", "name": "web", "uid": machine["metadata"]["uid"]}
    world.cluster.patch(SECRET, name, {"metadata": {"ownerReferences": [owner]}}, "default")
    migration = {key: value for key, value in machine["status"]["migration"].items() if key != "targetUid"}
    world.cluster.update_status(MACHINE, {**machine, "status": {**machine["status"], "migration": migration}})


def test_a_target_that_was_made_by_a_controller_before_has_its_secret(world: World) -> None:
    name = begin(world)
    stopped_half_way(world, name)
    world.settle()

    assert world.get(SECRET, name)["metadata"]["ownerReferences"][0]["uid"] == world.get(POD, name)["metadata"]["uid"]
    sends(world, MigrationState.FAILED)
    world.settle()
    world.finish_deletion(name)
    assert world.find(SECRET, name) is None


def test_a_secret_whose_pod_was_never_made_goes_with_the_move(world: World) -> None:
    operate(world, "Migrate")
    name = target(world)
    stopped_half_way(world, name)
    world.cluster.delete(POD, name, "default", grace_period_s=0)
    assert world.find(SECRET, name) is not None

    world.change(MACHINE, "web", {"runPolicy": "AlwaysOff"})

    assert (world.status(MACHINE, "web")["migration"]["phase"], world.find(SECRET, name)) == ("Failed", None)


def test_machines_leave_a_node_in_turn(world: World) -> None:
    moving = {"operation": "x", "phase": "Moving", "sourceNode": "node", "sourcePod": "p", "targetPod": "q"}
    for name in ("db", "mail"):
        world.apply(MACHINE, name, {**MACHINE_SPEC, "runPolicy": "Manual"})
        # Its launcher does not answer, so nothing more happens to it.
        pod = {"metadata": {"name": f"vm-{name}", "namespace": "default"}, "spec": {"nodeName": "node"}}
        world.cluster.create(POD, pod)
        obj = world.get(MACHINE, name)
        status = {**obj["status"], "migration": {**moving, "startedAt": write_time(world.now)}}
        world.cluster.update_status(MACHINE, {**obj, "status": status})

    operate(world, "Migrate")

    waits = world.condition(MACHINE, "web", "Migrating")
    assert (waits["reason"], waits["status"]) == ("WaitsForTurn", "False")
    assert "2 machines leave node node already" in waits["message"]
    assert world.status(MACHINE, "web")["phase"] == "Running"


def test_an_eviction_becomes_a_move(world: World) -> None:
    annotation = {"metadata": {"annotations": {REQUESTED_ANNOTATION: write_time(world.now)}}}
    world.cluster.patch(POD, "vm-web", annotation, "default")
    world.settle()

    (operation,) = world.cluster.list(OPERATION)
    assert (operation["spec"]["type"], operation["spec"]["virtualMachineName"]) == ("Evict", "web")
    assert world.status(MACHINE, "web")["phase"] == "Migrating"


def test_an_eviction_that_nobody_asks_for_any_more_is_forgotten(world: World) -> None:
    annotation = {"metadata": {"annotations": {REQUESTED_ANNOTATION: write_time(world.now)}}}
    world.pass_time(61)
    world.cluster.patch(POD, "vm-web", annotation, "default")
    world.settle()

    assert world.cluster.list(OPERATION) == []
