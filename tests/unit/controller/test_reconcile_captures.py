"""Images of disks: what is waited for, what the capture's pod is told, and how each of its ends is taken."""

import json
from typing import Any

import pytest

from controller.api.resource import CLUSTER_IMAGE, DISK, IMAGE, MACHINE, POD, Resource
from controller.launcher.spec import CaptureSpec, WorkEnd, WorkStatus
from tests.unit.controller.world import MIB, World

GOLDEN = {"dataSource": {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}}
CLUSTER_GOLDEN = {
    "dataSource": {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root", "namespace": "default"}}
}
BASE = {"dataSource": {"type": "HTTP", "http": {"url": "http://x/y.img"}}}
FROM_BASE = {
    "persistentVolumeClaim": {"size": "64Mi"},
    "dataSource": {"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": "base"}},
}
WEB = {
    "runPolicy": "AlwaysOn",
    "cpu": {"cores": 1},
    "memory": {"size": "256Mi"},
    "blockDevices": [{"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}],
}


@pytest.fixture
def world() -> World:
    """A world with the disk `root`, made of the image `base`."""
    world = World()
    uid = world.apply(CLUSTER_IMAGE, "base", BASE)["metadata"]["uid"]
    world.publish("cvmi/base", uid)
    world.apply(DISK, "root", FROM_BASE)
    world.bind("vmd-root")
    return world


def pod_of(world: World, image: Resource = IMAGE) -> dict[str, Any] | None:
    return world.find(POD, f"capture-{world.get(image, 'golden')['metadata']['uid']}")


def end(world: World, message: WorkEnd | None) -> None:
    """As the node agent tells of a capture that ended."""
    pod = pod_of(world)
    assert pod is not None
    text = message.model_dump_json() if message else ""
    failed = message is None or bool(message.reason)
    state = {"terminated": {"exitCode": int(failed), "message": text}}
    phase = "Failed" if failed else "Succeeded"
    statuses = [{"name": "capture", "state": state}]
    world.cluster.set_status(POD, pod["metadata"]["name"], "default", phase=phase, containerStatuses=statuses)
    world.reconcilers[IMAGE].reconcile(("default", "golden"))


@pytest.mark.parametrize(
    ("resource", "spec", "repository"),
    [(IMAGE, GOLDEN, "vmi/default/golden"), (CLUSTER_IMAGE, CLUSTER_GOLDEN, "cvmi/golden")],
)
def test_a_pod_where_the_disk_is_makes_the_image(
    world: World, resource: Resource, spec: dict[str, Any], repository: str
) -> None:
    uid = world.apply(resource, "golden", spec)["metadata"]["uid"]
    assert world.status(resource, "golden")["phase"] == "Provisioning"
    pod = pod_of(world, resource)
    assert pod is not None
    assert pod["metadata"]["namespace"] == "default"
    assert pod["spec"]["volumes"][0] == {"name": "disk", "persistentVolumeClaim": {"claimName": "vmd-root"}}
    command = pod["spec"]["containers"][0]["command"]
    assert command[:2] == ["dvcr-launcher", "capture"]
    told = CaptureSpec.model_validate(json.loads(command[2]))
    assert (told.repository, told.tags, told.origin) == (repository, ("latest", uid), "VirtualMachineDisk default/root")
    assert told.disk.image is not None
    assert (told.disk.image.repository, told.disk.size_bytes) == ("cvmi/base", 64 * MIB)

    world.work_progress.told = WorkStatus(percent=40)
    world.cluster.set_status(POD, pod["metadata"]["name"], "default", phase="Running", podIP="127.64.0.9")
    world.settle()
    assert world.status(resource, "golden")["progress"] == "40%"

    world.publish(repository, uid)
    world.settle()
    status = world.status(resource, "golden")
    assert (status["phase"], status["progress"]) == ("Ready", "100%")
    assert status["target"]["registryURL"] == f"registry.test/{repository}:{uid}"
    assert pod_of(world, resource) is None or "deletionTimestamp" in (pod_of(world, resource) or {})["metadata"]


def test_a_disk_that_does_not_exist_or_is_not_ready_is_waited_for() -> None:
    world = World()
    world.apply(IMAGE, "golden", GOLDEN)
    assert world.status(IMAGE, "golden")["phase"] == "Pending"
    condition = world.condition(IMAGE, "golden", "Ready")
    assert (condition["reason"], "'root'" in condition["message"]) == ("DiskNotFound", True)
    world.apply(DISK, "root", {"persistentVolumeClaim": {"size": "1Gi"}})
    assert world.condition(IMAGE, "golden", "Ready")["reason"] == "DiskNotReady"
    world.bind("vmd-root")
    assert world.status(IMAGE, "golden")["phase"] == "Provisioning"


def test_the_launcher_of_a_running_machine_captures(world: World) -> None:
    world.apply(MACHINE, "web", WEB)
    world.apply(IMAGE, "golden", GOLDEN)
    condition = world.condition(IMAGE, "golden", "Ready")
    assert (condition["reason"], "VirtualMachine 'web'" in condition["message"]) == ("DiskInUse", True)
    world.run_pod()
    uid = world.get(IMAGE, "golden")["metadata"]["uid"]
    assert pod_of(world) is None
    spec = world.launchers.captures[uid]
    assert (spec.repository, spec.tags, spec.disk.name) == ("vmi/default/golden", ("latest", uid), "vmd-root")
    world.launchers.capture_status = WorkStatus(percent=40)
    world.settle()
    status = world.status(IMAGE, "golden")
    assert (status["phase"], status["progress"]) == ("Provisioning", "40%")
    world.publish("vmi/default/golden", uid)
    world.settle()
    assert world.status(IMAGE, "golden")["phase"] == "Ready"
    assert world.launchers.captures == {}


def test_a_launcher_that_does_not_answer_is_named(world: World) -> None:
    world.apply(MACHINE, "web", WEB)
    world.run_pod()
    world.launchers.capture_status = None
    world.apply(IMAGE, "golden", GOLDEN)
    condition = world.condition(IMAGE, "golden", "Ready")
    assert (condition["reason"], "'web'" in condition["message"]) == ("LauncherUnavailable", True)
    assert world.delete(IMAGE, "golden") is not None, "the launcher may still publish"
    world.launchers.capture_status = WorkStatus()
    world.settle()
    assert world.find(IMAGE, "golden") is None


def test_a_capture_in_a_machine_that_fails_is_tried_again_if_that_helps(world: World) -> None:
    world.apply(MACHINE, "web", WEB)
    world.run_pod()
    world.launchers.capture_status = WorkStatus(end=WorkEnd(reason="StorageFailed", message="x", retryable=True))
    world.apply(IMAGE, "golden", GOLDEN)
    assert world.condition(IMAGE, "golden", "Ready")["message"] == "x; is tried again"
    assert world.launchers.captures == {}
    world.launchers.capture_status = WorkStatus(end=WorkEnd(reason="CorruptImage", message="broken"))
    world.settle()
    assert world.status(IMAGE, "golden")["failureReason"] == "CorruptImage"


def test_a_machine_that_stops_leaves_the_capture_to_a_pod(world: World) -> None:
    world.apply(MACHINE, "web", WEB)
    world.run_pod()
    world.apply(IMAGE, "golden", GOLDEN)
    assert pod_of(world) is None
    world.delete(MACHINE, "web")
    assert world.condition(IMAGE, "golden", "Ready")["reason"] == "DiskInUse"
    world.end_pod("Stopped")
    world.finish_deletion()
    assert pod_of(world) is not None


def test_a_machine_does_not_start_meanwhile(world: World) -> None:
    uid = world.apply(IMAGE, "golden", GOLDEN)["metadata"]["uid"]
    world.apply(MACHINE, "web", WEB)
    condition = world.condition(MACHINE, "web", "Running")
    assert (condition["reason"], "VirtualMachineImage 'golden'" in condition["message"]) == ("DiskInUse", True)
    assert world.find(POD, "vm-web") is None
    world.publish("vmi/default/golden", uid)
    world.settle()
    pod = pod_of(world)
    if pod is not None:
        world.finish_deletion(pod["metadata"]["name"])
    assert world.find(POD, "vm-web") is not None


def test_an_error_that_may_pass_is_told_and_tried_again(world: World) -> None:
    world.apply(IMAGE, "golden", GOLDEN)
    end(world, WorkEnd(reason="RegistryUnavailable", message="no answer", retryable=True))
    assert world.status(IMAGE, "golden")["phase"] == "Provisioning"
    condition = world.condition(IMAGE, "golden", "Ready")
    assert (condition["reason"], condition["message"]) == ("RegistryUnavailable", "no answer; is tried again")
    assert pod_of(world) is None
    world.settle()
    assert pod_of(world) is not None


def test_a_capture_that_was_killed_starts_again(world: World) -> None:
    world.apply(IMAGE, "golden", GOLDEN)
    end(world, None)
    assert world.condition(IMAGE, "golden", "Ready")["reason"] == "Interrupted"
    world.settle()
    assert pod_of(world) is not None


def test_an_error_that_stays_fails_the_image(world: World) -> None:
    world.apply(IMAGE, "golden", GOLDEN)
    end(world, WorkEnd(reason="CorruptImage", message="the disk is broken"))
    status = world.status(IMAGE, "golden")
    assert (status["phase"], status["failureReason"], status["failureMessage"]) == (
        "Failed", "CorruptImage", "the disk is broken",
    )  # fmt: skip
    assert pod_of(world) is None


def test_deleting_the_image_ends_the_capture_first(world: World) -> None:
    world.apply(IMAGE, "golden", GOLDEN)
    pod = pod_of(world)
    assert pod is not None
    world.run_pod(pod["metadata"]["name"])
    world.cluster.delete(IMAGE, "golden", "default")
    world.settle()
    deleting = world.find(POD, pod["metadata"]["name"])
    if deleting is not None:
        assert world.find(IMAGE, "golden") is not None, "the image stays as long as its pod may publish"
        world.finish_deletion(pod["metadata"]["name"])
    assert world.find(IMAGE, "golden") is None
