"""Images whose artifacts vanish from the registry and come back, and a registry that does not answer."""

import pytest

from controller.api.resource import CLUSTER_IMAGE, DISK, EVENT, MACHINE, PVC
from controller.disks.claim import filled
from controller.images.registry import Artifact
from controller.launcher.spec import DiskStatus, MachineState, MachineStatus
from dvcr.errors import ImageError, RegistryError
from tests.unit.controller.test_image_usage import CDROM
from tests.unit.controller.test_reconcile_story import DISK_SPEC, IMAGE_SPEC, MACHINE_SPEC, ready_image, running_machine
from tests.unit.controller.world import World

LOST = "ClusterVirtualMachineImage 'debian' is lost: push its artifact to the registry again"
UNCOPIED = f"what has not been copied of it is nowhere else, and {LOST}"
AWAY = RegistryError("refused", code="UNAVAILABLE", status=503, reason="RegistryUnavailable")


def lose(world: World) -> Artifact:
    """Remove the image's artifact behind the controller's back."""
    (repository, uid), *_ = world.registry.images
    stored = world.registry.images.pop((repository, uid))
    world.settle()
    return stored


def give_back(world: World, stored: Artifact) -> None:
    uid = world.get(CLUSTER_IMAGE, "debian")["metadata"]["uid"]
    world.registry.images[stored.repository, uid] = stored
    world.settle()


def look(world: World) -> float | None:
    return world.reconcilers[CLUSTER_IMAGE].reconcile(("", "debian"))


def told(world: World, name: str = "debian") -> dict[str, tuple[str, int]]:
    """The events about the object: by reason, of what type and how often."""
    events = [event for event in world.cluster.list(EVENT) if event["involvedObject"]["name"] == name]
    return {event["reason"]: (event["type"], event["count"]) for event in events}


def test_a_lost_image_is_noticed_told_and_healed_when_it_returns() -> None:
    world = World()
    uid = ready_image(world)
    stored = lose(world)
    condition = world.condition(CLUSTER_IMAGE, "debian", "Ready")
    assert (world.status(CLUSTER_IMAGE, "debian")["phase"], condition["reason"]) == ("ImageLost", "ImageLost")
    assert condition["message"] == (
        f"cvmi/debian:{uid} is not in the registry any more; push it again, or create the resource again"
    )
    assert told(world)["ImageLost"] == ("Warning", 1)
    assert told(world)["Ready"] == ("Normal", 1)
    give_back(world, stored)
    assert world.status(CLUSTER_IMAGE, "debian")["phase"] == "Ready"
    assert told(world)["Ready"] == ("Normal", 2)


def test_an_image_is_looked_for_in_a_minute_at_a_time_of_its_own_whether_it_is_there_or_lost() -> None:
    world = World()
    ready_image(world)
    for _ in range(2):
        times = {look(world) for _ in range(50)}
        assert all(time is not None and 30 <= time <= 60 for time in times)
        assert len(times) > 40
        if world.registry.images:
            lose(world)


def test_an_image_that_cannot_be_read_is_lost_for_that_reason() -> None:
    world = World()
    ready_image(world)
    world.registry.error = ImageError("the config of cvmi/debian is missing", reason="CorruptImage")
    world.settle()
    condition = world.condition(CLUSTER_IMAGE, "debian", "Ready")
    assert (world.status(CLUSTER_IMAGE, "debian")["phase"], condition["reason"]) == ("ImageLost", "CorruptImage")
    world.registry.error = None
    world.settle()
    assert world.status(CLUSTER_IMAGE, "debian")["phase"] == "Ready"


def test_a_registry_that_does_not_answer_loses_nothing_and_is_told_once() -> None:
    world = World()
    ready_image(world)
    world.registry.error = AWAY
    world.settle()
    assert world.status(CLUSTER_IMAGE, "debian")["phase"] == "Ready"
    assert world.condition(CLUSTER_IMAGE, "debian", "Ready")["status"] == "True"
    condition = world.condition(CLUSTER_IMAGE, "debian", "RegistryAvailable")
    assert (condition["status"], condition["reason"], condition["message"]) == (
        "False", "RegistryUnavailable", "refused; the phase is as it was when the registry answered last",
    )  # fmt: skip
    before = world.cluster.writes
    world.registry.error = RegistryError("in other words", code="UNAVAILABLE", reason="RegistryUnavailable")
    assert look(world) is not None
    assert world.cluster.writes == before
    world.registry.error = None
    world.settle()
    assert world.condition(CLUSTER_IMAGE, "debian", "RegistryAvailable")["status"] == "True"
    assert told(world)["RegistryUnavailable"] == told(world)["RegistryAvailable"] == ("Normal", 1)


def test_a_lost_image_stays_lost_while_the_registry_does_not_answer() -> None:
    world = World()
    ready_image(world)
    stored = lose(world)
    world.registry.error = AWAY
    world.settle()
    assert world.status(CLUSTER_IMAGE, "debian")["phase"] == "ImageLost"
    world.registry.error = None
    give_back(world, stored)
    assert world.status(CLUSTER_IMAGE, "debian")["phase"] == "Ready"


def test_a_disk_that_is_not_copied_says_that_its_image_is_lost_and_holds_its_machine() -> None:
    world = World()
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    world.bind("vmd-root")
    stored = lose(world)
    condition = world.condition(DISK, "root", "ImageAvailable")
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", "ImageLost", UNCOPIED)
    assert told(world, "root")["ImageLost"] == ("Normal", 1)

    world.apply(MACHINE, "web", MACHINE_SPEC)
    condition = world.condition(MACHINE, "web", "BlockDevicesReady")
    assert (condition["reason"], condition["message"]) == (
        "ImageLost", f"waits for VirtualMachineDisk 'root': {UNCOPIED}",
    )  # fmt: skip

    give_back(world, stored)
    assert world.condition(DISK, "root", "ImageAvailable")["status"] == "True"
    assert world.condition(MACHINE, "web", "BlockDevicesReady")["status"] == "True"


def test_a_disk_to_be_made_waits_for_the_lost_image() -> None:
    world = World()
    ready_image(world)
    stored = lose(world)
    world.apply(DISK, "root", DISK_SPEC)
    condition = world.condition(DISK, "root", "Ready")
    assert (condition["reason"], condition["message"]) == (
        "ImageLost", "waits for ClusterVirtualMachineImage 'debian', which is ImageLost",
    )  # fmt: skip
    assert world.find(PVC, "vmd-root") is None
    give_back(world, stored)
    assert world.find(PVC, "vmd-root") is not None


@pytest.mark.parametrize(("percent", "lost"), [(37, True), (100, False)])
def test_a_running_machine_says_which_disk_still_needs_a_lost_image(percent: int, lost: bool) -> None:
    world = World()
    disk = DiskStatus(name="vmd-root", streamed_percent=percent)
    world.launchers.status = MachineStatus(state=MachineState.RUNNING, disks=(disk,))
    running_machine(world)
    stored = lose(world)
    condition = world.condition(MACHINE, "web", "BlockDevicesReady")
    assert condition["status"] == ("False" if lost else "True")
    assert world.status(MACHINE, "web")["phase"] == "Running"
    if lost:
        assert (condition["reason"], condition["message"]) == ("ImageLost", f"vmd-root: {UNCOPIED}")
        give_back(world, stored)
        assert world.condition(MACHINE, "web", "BlockDevicesReady")["status"] == "True"


def test_a_running_machine_says_that_an_image_that_it_shows_is_lost() -> None:
    world = World()
    world.launchers.status = MachineStatus(state=MachineState.RUNNING, disks=(DiskStatus(name="cvmi-debian"),))
    root = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}
    running_machine(world, blockDevices=[root, CDROM])
    stored = lose(world)
    condition = world.condition(MACHINE, "web", "BlockDevicesReady")
    assert (condition["reason"], condition["message"]) == ("ImageLost", f"cvmi-debian: {LOST}")
    give_back(world, stored)
    assert world.condition(MACHINE, "web", "BlockDevicesReady")["reason"] == "Ready"


def test_what_a_disk_imported_for_itself_is_looked_for_until_it_is_copied() -> None:
    world = World()
    uid = world.apply(DISK, "root", {"persistentVolumeClaim": {}, **IMAGE_SPEC})["metadata"]["uid"]
    world.publish("vmd/default/root", uid)
    world.settle()
    world.bind("vmd-root")
    again_s = world.reconcilers[DISK].reconcile(("default", "root"))
    assert again_s is not None
    assert 30 <= again_s <= 60

    stored = world.registry.images.pop(("vmd/default/root", uid))
    world.settle()
    condition = world.condition(DISK, "root", "ImageAvailable")
    assert (condition["status"], condition["reason"]) == ("False", "ImageLost")
    assert f"vmd/default/root:{uid} is not in the registry any more" in condition["message"]
    world.apply(MACHINE, "web", MACHINE_SPEC)
    assert world.condition(MACHINE, "web", "BlockDevicesReady")["reason"] == "ImageLost"
    world.registry.error = AWAY
    world.settle()
    assert world.condition(DISK, "root", "ImageAvailable")["status"] == "False"
    world.registry.error = None
    world.registry.images["vmd/default/root", uid] = stored
    world.settle()
    assert world.condition(DISK, "root", "ImageAvailable")["status"] == "True"
    assert world.condition(MACHINE, "web", "BlockDevicesReady")["status"] == "True"

    claim = world.get(PVC, "vmd-root")
    world.cluster.patch(PVC, "vmd-root", filled(claim), "default")
    world.registry.images.clear()
    assert world.reconcilers[DISK].reconcile(("default", "root")) is None
    assert world.condition(DISK, "root", "ImageAvailable")["status"] == "True"
