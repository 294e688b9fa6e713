"""Images in use: who uses them is told, and none of them is deleted under what still reads from it."""

from typing import Any

import pytest

from controller.api.resource import CLUSTER_IMAGE, DISK, IMAGE, MACHINE, POD, PVC
from controller.concerns import deleted
from controller.disks.claim import FILLED_ANNOTATION
from controller.images.usage import images_of_claim, images_of_machine
from controller.launcher.spec import DiskStatus, MachineState, MachineStatus
from tests.unit.controller.test_reconcile_story import DISK_SPEC, MACHINE_SPEC, ready_image, running_machine
from tests.unit.controller.world import World

OWN = {
    "persistentVolumeClaim": {"size": "1Gi"},
    "dataSource": {"type": "VirtualMachineImage", "virtualMachineImage": {"name": "a"}},
}
HTTP = {"dataSource": {"type": "HTTP", "http": {"url": "http://x/y.img"}}}
CDROM = {"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": "debian"}}
WEB = {"name": "web", "namespace": "default"}


def copied(percent: int, state: MachineState = MachineState.RUNNING) -> MachineStatus:
    return MachineStatus(state=state, disks=(DiskStatus(name="vmd-root", streamed_percent=percent),))


def in_use(world: World, name: str = "debian") -> str:
    """What the deletion of the image waits for."""
    condition = world.condition(CLUSTER_IMAGE, name, "Ready")
    assert (world.status(CLUSTER_IMAGE, name)["phase"], condition["reason"]) == ("Terminating", "InUse")
    assert world.registry.images != {}
    message: str = condition["message"]
    return message


def test_an_image_stays_until_the_disk_of_a_running_machine_is_copied() -> None:
    world = World()
    world.launchers.status = copied(99)
    running_machine(world)
    assert world.delete(CLUSTER_IMAGE, "debian") is not None
    assert in_use(world) == (
        "waits for VirtualMachineDisk 'default/root' to be copied (run a machine on it until it is, or delete the disk)"
    )
    assert world.status(CLUSTER_IMAGE, "debian")["usedInVMs"] == [WEB]
    world.launchers.status = copied(100)
    world.settle()
    assert world.get(PVC, "vmd-root")["metadata"]["annotations"][FILLED_ANNOTATION] == "true"
    assert world.find(CLUSTER_IMAGE, "debian") is None
    assert world.registry.images == {}


def test_a_copy_that_is_complete_stays_known_when_the_machine_is_off() -> None:
    world = World()
    world.launchers.status = copied(100)
    running_machine(world)
    world.delete(MACHINE, "web")
    world.finish_deletion()
    assert world.delete(CLUSTER_IMAGE, "debian") is None


@pytest.mark.parametrize("state", [MachineState.STARTING, MachineState.INCOMING, MachineState.MOVED])
def test_only_the_launcher_that_runs_the_machine_knows_its_disks(state: MachineState) -> None:
    world = World()
    world.launchers.status = copied(100, state)
    running_machine(world)
    assert FILLED_ANNOTATION not in world.get(PVC, "vmd-root")["metadata"]["annotations"]


def test_an_image_stays_for_a_disk_that_no_machine_has_used_yet() -> None:
    world = World()
    uid = world.apply(IMAGE, "a", HTTP)["metadata"]["uid"]
    world.publish("vmi/default/a", uid)
    world.settle()
    world.apply(DISK, "own", OWN)
    assert world.delete(IMAGE, "a") is not None
    condition = world.condition(IMAGE, "a", "Ready")
    assert condition["reason"] == "InUse"
    assert condition["message"].startswith("waits for VirtualMachineDisk 'default/own' to be copied")
    assert "usedInVMs" not in world.status(IMAGE, "a")
    world.delete(DISK, "own")
    assert world.find(IMAGE, "a") is None


def test_a_disk_of_an_earlier_image_of_the_name_is_in_nobodys_way() -> None:
    world = World()
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    earlier = {"metadata": {"annotations": {"virtualization.deckhouse.io/image": "cvmi/debian@sha256:" + "b" * 64}}}
    world.cluster.patch(PVC, "vmd-root", earlier, "default")
    assert world.delete(CLUSTER_IMAGE, "debian") is None


def test_an_image_that_is_to_go_takes_no_new_disks() -> None:
    world = World()
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    world.delete(CLUSTER_IMAGE, "debian")
    world.apply(DISK, "late", DISK_SPEC)
    condition = world.condition(DISK, "late", "Ready")
    assert condition["message"] == "waits for ClusterVirtualMachineImage 'debian', which is Terminating"
    assert world.find(PVC, "vmd-late") is None


def test_an_image_stays_until_no_machine_has_it_as_a_block_device() -> None:
    world = World()
    ready_image(world)
    world.apply(DISK, "data", {"persistentVolumeClaim": {"size": "1Gi"}})
    world.bind("vmd-data")
    disk = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "data"}}
    world.apply(MACHINE, "web", {**MACHINE_SPEC, "blockDevices": [disk, CDROM]})
    world.run_pod()
    assert world.status(CLUSTER_IMAGE, "debian")["usedInVMs"] == [WEB]
    world.delete(CLUSTER_IMAGE, "debian")
    assert in_use(world) == (
        "waits for VirtualMachine 'default/web'"
        " (take it out of blockDevices and restart, or delete the machine)"
    )  # fmt: skip
    world.change(MACHINE, "web", {"blockDevices": [disk]})
    assert in_use(world), "the guest has it until the restart"
    world.delete(MACHINE, "web")
    assert in_use(world), "the guest is being powered off"
    world.finish_deletion()
    assert world.find(CLUSTER_IMAGE, "debian") is None


@pytest.mark.parametrize("resource", [IMAGE, CLUSTER_IMAGE])
def test_an_image_stays_while_another_is_made_from_it(resource: Any) -> None:
    world = World()
    ready_image(world)
    source = {"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": "debian"}}
    uid = world.apply(resource, "copy", {"dataSource": source})["metadata"]["uid"]
    world.delete(CLUSTER_IMAGE, "debian")
    name = f"{resource.kind} 'default/copy'" if resource.namespaced else f"{resource.kind} 'copy'"
    assert in_use(world) == f"waits for {name} to be made from it"
    world.publish("vmi/default/copy" if resource.namespaced else "cvmi/copy", uid)
    world.settle()
    assert world.find(CLUSTER_IMAGE, "debian") is None


def test_an_image_stays_while_a_golden_image_of_its_disk_is_made() -> None:
    world = World()
    world.launchers.status = copied(100)
    running_machine(world)
    source = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}
    uid = world.apply(IMAGE, "golden", {"dataSource": source})["metadata"]["uid"]
    world.delete(CLUSTER_IMAGE, "debian")
    assert in_use(world) == "waits for VirtualMachineImage 'default/golden' to be made from it"
    world.publish("vmi/default/golden", uid)
    world.settle()
    assert world.find(CLUSTER_IMAGE, "debian") is None


def test_the_machines_that_use_an_image_are_told_until_they_do_not() -> None:
    world = World()
    world.launchers.status = copied(37)
    running_machine(world)
    assert world.status(CLUSTER_IMAGE, "debian")["usedInVMs"] == [WEB]
    world.launchers.status = copied(100)
    world.settle()
    assert "usedInVMs" not in world.status(CLUSTER_IMAGE, "debian")


def test_what_changes_the_users_of_an_image_wakes_it() -> None:
    world = World()
    ready_image(world)
    cluster, of_machine, of_claim = world.cluster, images_of_machine(CLUSTER_IMAGE), images_of_claim(CLUSTER_IMAGE)
    world.apply(DISK, "root", DISK_SPEC)
    world.bind("vmd-root")
    machine = {"metadata": {"name": "web", "namespace": "default"}, "spec": MACHINE_SPEC}
    world.cluster.create(MACHINE, machine)
    assert list(of_machine(("default", "web"), cluster)) == [("", "debian")]
    assert list(of_claim(("default", "vmd-root"), cluster)) == [("", "debian")]
    assert list(images_of_claim(IMAGE)(("default", "vmd-root"), cluster)) == []
    world.settle()
    assert list(of_machine(("default", "web"), cluster)) == [], "it is told already"
    world.cluster.patch(MACHINE, "web", {"metadata": {"finalizers": None}}, "default")
    world.cluster.delete(POD, "vm-web", "default")
    world.cluster.delete(MACHINE, "web", "default")
    assert list(of_machine(("default", "web"), cluster)) == [("", "debian")]
    world.delete(CLUSTER_IMAGE, "debian")
    assert list(deleted(CLUSTER_IMAGE)(("default", "gone"), cluster)) == [("", "debian")]
