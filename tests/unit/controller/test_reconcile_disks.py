"""Disks: sizes, waiting, growing, losing, deleting."""

from controller.api.resource import CLUSTER_IMAGE, DISK, MACHINE, POD, PVC
from tests.unit.controller.test_reconcile_story import DISK_SPEC, ready_image, running_machine
from tests.unit.controller.world import World


def test_an_empty_disk_is_a_claim_of_its_size() -> None:
    world = World()
    world.apply(DISK, "data", {"persistentVolumeClaim": {"size": "10Gi", "storageClassName": "fast"}})
    claim = world.get(PVC, "vmd-data")
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": "10Gi"}},
        "storageClassName": "fast",
    }
    assert claim["metadata"]["ownerReferences"][0]["uid"] == world.get(DISK, "data")["metadata"]["uid"]
    assert world.status(DISK, "data")["phase"] == "Provisioning"
    assert world.condition(DISK, "data", "Ready")["reason"] == "WaitForVolume"
    world.bind("vmd-data")
    status = world.status(DISK, "data")
    assert (status["phase"], status["capacity"]) == ("Ready", "10Gi")
    assert status["target"] == {"persistentVolumeClaimName": "vmd-data"}


def test_a_disk_waits_for_its_image_and_says_so() -> None:
    world = World()
    world.apply(DISK, "root", DISK_SPEC)
    condition = world.condition(DISK, "root", "Ready")
    assert (world.status(DISK, "root")["phase"], condition["reason"]) == ("Pending", "ImageNotFound")
    assert condition["message"] == "waits for ClusterVirtualMachineImage 'debian', which does not exist"
    world.apply(CLUSTER_IMAGE, "debian", {"dataSource": {"type": "HTTP", "http": {"url": "http://x/"}}})
    condition = world.condition(DISK, "root", "Ready")
    assert condition["reason"] == "ImageNotReady"
    assert condition["message"].endswith("which is Provisioning")
    assert world.find(PVC, "vmd-root") is None


def test_a_disk_smaller_than_its_image_fails_with_both_sizes_and_recovers_when_it_grows() -> None:
    world = World()
    ready_image(world)
    world.apply(DISK, "root", {**DISK_SPEC, "persistentVolumeClaim": {"size": "10Mi"}})
    status = world.status(DISK, "root")
    assert (status["phase"], status["failureReason"]) == ("Failed", "DiskSmallerThanImage")
    assert "10Mi" in status["failureMessage"]
    assert "64Mi" in status["failureMessage"]
    assert world.find(PVC, "vmd-root") is None
    world.change(DISK, "root", {"persistentVolumeClaim": {"size": "100Mi"}})
    world.bind("vmd-root")
    status = world.status(DISK, "root")
    assert (status["phase"], "failureReason" in status) == ("Ready", False)


def test_a_disk_imports_for_itself() -> None:
    world = World()
    spec = {"persistentVolumeClaim": {}, "dataSource": {"type": "HTTP", "http": {"url": "http://x/"}}}
    uid = world.apply(DISK, "own", spec)["metadata"]["uid"]
    (job,) = world.board.submitted
    assert job.repository == "vmd/default/own"
    assert world.status(DISK, "own")["phase"] == "Provisioning"
    world.registry.add("vmd/default/own", uid)
    world.settle()
    world.bind("vmd-own")
    assert world.status(DISK, "own")["phase"] == "Ready"
    world.delete(DISK, "own")
    assert world.registry.images == {}
    assert world.find(PVC, "vmd-own") is None


def test_growing_a_disk_grows_its_claim() -> None:
    world = World()
    world.apply(DISK, "data", {"persistentVolumeClaim": {"size": "1Gi"}})
    world.bind("vmd-data")
    world.change(DISK, "data", {"persistentVolumeClaim": {"size": "2Gi"}})
    assert world.get(PVC, "vmd-data")["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert world.status(DISK, "data")["phase"] == "Resizing"
    world.bind("vmd-data")
    assert (world.status(DISK, "data")["phase"], world.status(DISK, "data")["capacity"]) == ("Ready", "2Gi")


def test_a_lost_claim_is_noticed_and_never_made_anew() -> None:
    world = World()
    world.apply(DISK, "data", {"persistentVolumeClaim": {"size": "1Gi"}})
    world.bind("vmd-data")
    world.delete(PVC, "vmd-data")
    assert world.status(DISK, "data")["phase"] == "PVCLost"
    assert world.find(PVC, "vmd-data") is None


def test_a_disk_in_use_is_deleted_only_after_its_machine() -> None:
    world = World()
    running_machine(world)
    assert world.delete(DISK, "root") is not None
    condition = world.condition(DISK, "root", "Ready")
    assert (condition["reason"], "vm-web" in condition["message"]) == ("InUse", True)
    world.delete(MACHINE, "web")
    assert world.find(POD, "vm-web") is not None, "the guest is being powered off"
    world.finish_deletion()
    assert world.find(MACHINE, "web") is None
    assert world.find(DISK, "root") is None
