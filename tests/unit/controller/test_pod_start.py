"""Pods that do not start: the words of the scheduler and of the node come to whoever waits for them."""

from controller.api.resource import DISK, IMAGE, MACHINE, POD
from tests.unit.controller.test_image_claims import Story
from tests.unit.controller.test_reconcile_story import DISK_SPEC, MACHINE_SPEC, ready_image
from tests.unit.controller.world import World

NOWHERE = "0/3 nodes are available: 3 Insufficient memory."
UNSCHEDULED = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NOWHERE}]
PULL = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "dvcr"'}


def starting_machine() -> World:
    world = World()
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    world.bind("vmd-root")
    world.apply(MACHINE, "web", MACHINE_SPEC)
    world.launchers.status = None
    return world


def test_a_machine_says_why_no_node_takes_it() -> None:
    world = starting_machine()
    assert world.condition(MACHINE, "web", "Running")["message"] == "waits for a node to run on"
    world.cluster.set_status(POD, "vm-web", "default", conditions=UNSCHEDULED)
    world.settle()
    condition = world.condition(MACHINE, "web", "Running")
    assert (condition["reason"], condition["message"]) == ("Scheduling", f"waits for a node to run on: {NOWHERE}")


def test_a_machine_says_why_its_launcher_does_not_start() -> None:
    world = starting_machine()
    world.cluster.patch(POD, "vm-web", {"spec": {"nodeName": "node"}}, "default")
    waiting = [{"name": "machine", "state": {"waiting": {"reason": "ContainerCreating"}}}]
    world.cluster.set_status(POD, "vm-web", "default", phase="Pending", containerStatuses=waiting)
    world.settle()
    assert world.condition(MACHINE, "web", "Running")["message"] == "the launcher starts QEMU"
    stuck = [{"name": "machine", "state": {"waiting": PULL}}]
    world.cluster.set_status(POD, "vm-web", "default", containerStatuses=stuck)
    world.settle()
    told = 'ImagePullBackOff: Back-off pulling image "dvcr"'
    condition = world.condition(MACHINE, "web", "Running")
    assert (condition["reason"], condition["message"]) == ("Starting", f"the launcher starts QEMU: {told}")
    assert world.status(MACHINE, "web")["message"] == told
    world.run_pod()
    assert world.status(MACHINE, "web")["phase"] == "Running"
    assert "message" not in world.status(MACHINE, "web")


def test_an_image_says_why_no_node_copies_it_into_its_claim() -> None:
    story = Story().imported()
    story.world.bind("vmi-a")
    story.world.cluster.set_status(POD, f"fill-{story.uid}", "default", conditions=UNSCHEDULED)
    story.world.settle()
    assert (
        story.world.condition(IMAGE, "a", "Ready")["message"] == f"waits for a node that can mount the disk: {NOWHERE}"
    )


def test_an_image_of_a_disk_says_why_the_disk_is_not_read() -> None:
    world = World()
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    world.bind("vmd-root")
    source = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}
    uid = world.apply(IMAGE, "golden", {"dataSource": source})["metadata"]["uid"]
    world.cluster.set_status(POD, f"capture-{uid}", "default", conditions=UNSCHEDULED)
    world.settle()
    assert world.condition(IMAGE, "golden", "Ready")["message"] == f"waits for a node that has the disk: {NOWHERE}"
