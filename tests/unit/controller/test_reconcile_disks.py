"""Disks: sizes, waiting, growing, losing, deleting."""

import pytest

from controller.api.resource import CLUSTER_IMAGE, DISK, MACHINE, POD, PVC, STORAGE_CLASS
from dvcr.errors import ResourceError
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


def test_a_lost_claim_that_comes_back_makes_the_disk_usable_again() -> None:
    world = World()
    world.apply(DISK, "data", {"persistentVolumeClaim": {"size": "1Gi"}})
    world.bind("vmd-data")
    claim = world.get(PVC, "vmd-data")
    world.delete(PVC, "vmd-data")
    restored = {"name": "vmd-data", "namespace": "default"}
    world.cluster.create(PVC, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": restored,
                               "spec": claim["spec"]})  # fmt: skip
    world.settle()
    assert world.status(DISK, "data")["phase"] == "Provisioning"
    world.bind("vmd-data")
    assert world.status(DISK, "data")["phase"] == "Ready"


def test_a_lost_volume_is_noticed_until_it_is_back() -> None:
    world = World()
    world.apply(DISK, "data", {"persistentVolumeClaim": {"size": "1Gi"}})
    world.bind("vmd-data")
    world.cluster.set_status(PVC, "vmd-data", "default", phase="Lost")
    world.settle()
    condition = world.condition(DISK, "data", "Ready")
    assert (world.status(DISK, "data")["phase"], condition["reason"]) == ("PVCLost", "PVCLost")
    assert "the volume behind PersistentVolumeClaim 'vmd-data' is gone" in condition["message"]
    world.bind("vmd-data")
    assert world.status(DISK, "data")["phase"] == "Ready"


def storage_class(world: World, name: str, **annotations: str) -> None:
    prefix = "virtualdisk.virtualization.deckhouse.io"
    annotations = {f"{prefix}/{key.replace('_', '-')}": value for key, value in annotations.items()}
    if name == "standard":
        annotations["storageclass.kubernetes.io/is-default-class"] = "true"
    metadata = {"name": name, "annotations": annotations}
    world.cluster.create(STORAGE_CLASS, {"kind": "StorageClass", "metadata": metadata, "provisioner": "x"})


def test_the_storage_class_says_which_modes_the_volume_has() -> None:
    world = World()
    storage_class(world, "standard", access_mode="ReadWriteMany")
    storage_class(world, "fast", volume_mode="Block")
    world.apply(DISK, "files", {"persistentVolumeClaim": {"size": "1Gi"}})
    world.apply(DISK, "raw", {"persistentVolumeClaim": {"size": "1Gi", "storageClassName": "fast"}})
    files, raw = world.get(PVC, "vmd-files")["spec"], world.get(PVC, "vmd-raw")["spec"]
    assert (files["volumeMode"], files["accessModes"]) == ("Filesystem", ["ReadWriteMany"])
    assert (raw["volumeMode"], raw["accessModes"]) == ("Block", ["ReadWriteOnce"])


def test_a_block_volume_has_room_for_the_tables_of_the_disk_and_the_disk_has_its_own_size() -> None:
    world = World()
    storage_class(world, "fast", volume_mode="Block")
    world.apply(DISK, "raw", {"persistentVolumeClaim": {"size": "64Gi", "storageClassName": "fast"}})
    assert world.get(PVC, "vmd-raw")["spec"]["resources"]["requests"]["storage"] == f"{64 * 1024 + 11}Mi"
    world.bind("vmd-raw")
    assert world.status(DISK, "raw")["capacity"] == "64Gi"
    world.change(DISK, "raw", {"persistentVolumeClaim": {"size": "128Gi"}})
    assert world.condition(DISK, "raw", "Ready")["message"] == "grows from 64Gi to 128Gi"
    world.bind("vmd-raw")
    assert (world.status(DISK, "raw")["phase"], world.status(DISK, "raw")["capacity"]) == ("Ready", "128Gi")


def test_a_storage_class_that_asks_for_nonsense_is_named() -> None:
    world = World()
    storage_class(world, "fast", volume_mode="Floppy")
    with pytest.raises(ResourceError, match="it can be Filesystem or Block"):
        world.apply(DISK, "raw", {"persistentVolumeClaim": {"size": "1Gi", "storageClassName": "fast"}})
    assert world.condition(DISK, "raw", "Ready")["reason"] == "StorageClassInvalid"


def test_a_disk_in_use_is_deleted_only_after_its_machine() -> None:
    world = World()
    running_machine(world)
    assert world.delete(DISK, "root") is not None
    condition = world.condition(DISK, "root", "Ready")
    assert condition["message"] == "waits for VirtualMachine 'web' to stop using the disk"
    world.delete(MACHINE, "web")
    assert world.find(POD, "vm-web") is not None, "the guest is being powered off"
    world.finish_deletion()
    assert world.find(MACHINE, "web") is None
    assert world.find(DISK, "root") is None
