"""Disks: sizes, waiting, growing, losing, deleting."""

import json
from typing import Any

import pytest

from controller.api.resource import CLUSTER_IMAGE, DISK, EVENT, IMAGE, MACHINE, POD, PVC, STORAGE_CLASS
from controller.disks.claim import FILLED_ANNOTATION
from controller.disks.usage import disks_of_machine
from controller.launcher.spec import FillSpec, WorkEnd, WorkStatus
from controller.runtime.errors import ClusterError
from dvcr.errors import ResourceError
from tests.unit.controller.test_reconcile_story import DISK_SPEC, MACHINE_SPEC, ready_image, running_machine
from tests.unit.controller.world import World


def test_an_empty_disk_is_a_claim_of_its_size() -> None:
    world = World()
    world.apply(DISK, "data", {"persistentVolumeClaim": {"size": "10Gi", "storageClassName": "fast"}})
    claim = world.get(PVC, "vmd-data")
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": "10806Mi"}},  # with what a qcow2 and a file system take for themselves
        "storageClassName": "fast",
    }
    assert claim["metadata"]["ownerReferences"][0]["uid"] == world.get(DISK, "data")["metadata"]["uid"]
    assert world.status(DISK, "data")["phase"] == "Provisioning"
    condition, waits = world.condition(DISK, "data", "Ready"), "waits for a volume to stand behind"
    assert condition["reason"] == "WaitForVolume"
    assert condition["message"] == f"{waits} PersistentVolumeClaim 'vmd-data': there is no storage class 'fast'"
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
    assert condition["message"].endswith("which is not Ready yet")
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
    world.publish("vmd/default/own", uid)
    world.settle()
    world.bind("vmd-own")
    assert world.status(DISK, "own")["phase"] == "Ready"
    world.delete(DISK, "own")
    assert world.registry.images == {}
    assert world.find(PVC, "vmd-own") is None


def test_a_disk_tells_which_machines_have_it() -> None:
    world = World()
    running_machine(world)
    assert world.status(DISK, "root")["usedInVMs"] == [{"name": "web", "namespace": "default"}]
    assert list(disks_of_machine(("default", "web"), world.cluster)) == []
    world.delete(MACHINE, "web")
    world.finish_deletion()
    assert "usedInVMs" not in world.status(DISK, "root")


def test_a_plugged_disk_tells_its_machine_while_that_is_on() -> None:
    world = World()
    running_machine(world)
    world.apply(DISK, "data", {"persistentVolumeClaim": {"size": "1Gi"}})
    world.bind("vmd-data")
    machine = world.get(MACHINE, "web")
    plugged = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "data"}}
    attached = [*machine["status"].get("blockDevicesAttached", ()), plugged]
    for phase, expected in (("Running", {("default", "data")}), ("Stopped", set())):
        world.cluster.set_status(MACHINE, "web", "default", phase=phase, blockDevicesAttached=attached)
        assert set(disks_of_machine(("default", "web"), world.cluster)) == expected


def test_growing_a_disk_grows_its_claim() -> None:
    world = World()
    world.apply(DISK, "data", {"persistentVolumeClaim": {"size": "1Gi"}})
    world.bind("vmd-data")
    world.change(DISK, "data", {"persistentVolumeClaim": {"size": "2Gi"}})
    assert world.get(PVC, "vmd-data")["spec"]["resources"]["requests"]["storage"] == "2163Mi"
    assert world.status(DISK, "data")["phase"] == "Resizing"
    world.bind("vmd-data")
    assert (world.status(DISK, "data")["phase"], world.status(DISK, "data")["capacity"]) == ("Ready", "2Gi")


@pytest.mark.parametrize("status", [403, 422, 500])
def test_a_growth_that_the_cluster_refuses_is_told_and_tried_again(status: int) -> None:
    world = World()
    world.apply(DISK, "data", {"persistentVolumeClaim": {"size": "1Gi"}})
    world.bind("vmd-data")
    why = "only dynamically provisioned pvc can be resized"
    world.cluster.refusals[PVC] = ClusterError(why, status=status)
    world.change(DISK, "data", {"persistentVolumeClaim": {"size": "2Gi"}})
    condition = world.condition(DISK, "data", "Resized")
    assert (condition["status"], condition["reason"]) == ("False", "ResizeRefused")
    assert condition["message"] == f"the cluster refuses to grow the disk from 1Gi to 2Gi: {why}; it is asked again"
    assert (world.status(DISK, "data")["phase"], world.status(DISK, "data")["capacity"]) == ("Ready", "1Gi")
    assert world.reconcilers[DISK].reconcile(("default", "data")) == 60
    assert ("ResizeRefused", condition["message"]) in [(e["reason"], e["message"]) for e in world.cluster.list(EVENT)]

    del world.cluster.refusals[PVC]
    world.settle()
    assert world.status(DISK, "data")["phase"] == "Resizing"
    assert world.condition(DISK, "data", "Resized")["status"] == "True"
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


def storage_class(world: World, name: str, binding_mode: str = "Immediate", **annotations: str) -> None:
    prefix = "virtualdisk.virtualization.deckhouse.io"
    annotations = {f"{prefix}/{key.replace('_', '-')}": value for key, value in annotations.items()}
    if name == "standard":
        annotations["storageclass.kubernetes.io/is-default-class"] = "true"
    metadata = {"name": name, "annotations": annotations}
    obj = {"kind": "StorageClass", "metadata": metadata, "provisioner": "x", "volumeBindingMode": binding_mode}
    world.cluster.create(STORAGE_CLASS, obj)


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


def test_a_volume_that_waits_for_its_consumer_keeps_no_machine_waiting() -> None:
    world = World()
    storage_class(world, "standard", "WaitForFirstConsumer")
    world.apply(DISK, "root", {"persistentVolumeClaim": {"size": "1Gi"}})
    assert world.status(DISK, "root")["phase"] == "Ready"
    assert world.condition(DISK, "root", "Ready")["message"] == (
        "the disk can be used; its volume is made where a machine first uses it"
    )
    golden = {"dataSource": {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}}
    world.apply(IMAGE, "golden", golden)
    assert world.condition(IMAGE, "golden", "Ready")["message"] == (
        "waits for VirtualMachineDisk 'root', which has no volume before a machine uses it"
    )
    world.delete(IMAGE, "golden")
    world.apply(MACHINE, "web", MACHINE_SPEC)
    assert world.find(POD, "vm-web") is not None
    world.bind("vmd-root")
    assert world.condition(DISK, "root", "Ready")["message"] == "the disk can be used"
    world.cluster.set_status(PVC, "vmd-root", "default", phase="Lost")
    world.settle()
    assert world.status(DISK, "root")["phase"] == "PVCLost"


def test_only_volumes_of_a_class_that_waits_may_be_missing() -> None:
    world = World()
    storage_class(world, "standard", "WaitForFirstConsumer")
    storage_class(world, "fast")
    world.apply(DISK, "root", {"persistentVolumeClaim": {"size": "1Gi", "storageClassName": "fast"}})
    condition, waits = world.condition(DISK, "root", "Ready"), "waits for a volume to stand behind"
    assert condition["reason"] == "WaitForVolume"
    assert condition["message"] == f"{waits} PersistentVolumeClaim 'vmd-root' of storage class 'fast'"


def test_a_disk_goes_on_when_its_storage_class_comes_to_be() -> None:
    world = World()
    world.apply(DISK, "root", {"persistentVolumeClaim": {"size": "1Gi", "storageClassName": "late"}})
    assert world.status(DISK, "root")["phase"] == "Provisioning"
    assert world.reconcile(DISK, ("default", "root")) == 30, "it is looked at again: its claim does not change"
    storage_class(world, "late", "WaitForFirstConsumer")
    world.settle()
    assert world.status(DISK, "root")["phase"] == "Ready"


def test_the_copy_into_an_eager_disk_is_what_its_volume_waits_for() -> None:
    world = World()
    storage_class(world, "standard", "WaitForFirstConsumer")
    ready_image(world)
    world.apply(DISK, "root", {**DISK_SPEC, "provisioning": "Eager"})
    assert world.condition(DISK, "root", "Ready")["reason"] == "Copying"
    assert world.find(POD, f"fill-{world.get(DISK, 'root')['metadata']['uid']}") is not None


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


class TestEager:
    @pytest.fixture
    def world(self) -> World:
        """A world with a bound claim of an eager disk."""
        world = World()
        ready_image(world)
        world.apply(DISK, "root", {**DISK_SPEC, "provisioning": "Eager"})
        world.bind("vmd-root")
        return world

    def pod(self, world: World) -> dict[str, Any] | None:
        return world.find(POD, f"fill-{world.get(DISK, 'root')['metadata']['uid']}")

    def end(self, world: World, message: WorkEnd | None) -> None:
        """As the node agent tells of a pod that ended."""
        pod = self.pod(world)
        assert pod is not None
        text = message.model_dump_json() if message else ""
        failed = message is None or bool(message.reason)
        statuses = [{"name": "fill", "state": {"terminated": {"exitCode": int(failed), "message": text}}}]
        phase = "Failed" if failed else "Succeeded"
        world.cluster.set_status(POD, pod["metadata"]["name"], "default", phase=phase, containerStatuses=statuses)
        world.reconcilers[DISK].reconcile(("default", "root"))

    def test_a_pod_copies_the_image_before_the_disk_is_ready(self, world: World) -> None:
        pod = self.pod(world)
        assert pod is not None
        command = pod["spec"]["containers"][0]["command"]
        assert command[:2] == ["dvcr-launcher", "fill"]
        told = FillSpec.model_validate(json.loads(command[2])).disk
        assert told.image is not None
        assert (told.image.repository, told.size_bytes) == ("cvmi/debian", 64 * 2**20)
        assert pod["spec"]["volumes"][0] == {"name": "disk", "persistentVolumeClaim": {"claimName": "vmd-root"}}
        assert world.status(DISK, "root")["phase"] == "Provisioning"

        world.work_progress.told = WorkStatus(percent=40)
        world.run_pod(pod["metadata"]["name"])
        status = world.status(DISK, "root")
        assert (status["phase"], status["progress"]) == ("Provisioning", "40%")
        condition = world.condition(DISK, "root", "Ready")
        assert (condition["reason"], condition["message"]) == ("Copying", "40% of the image is copied")

        world.work_progress.told = WorkStatus(percent=30, message="copy error: the registry is away")
        world.settle()
        assert world.status(DISK, "root")["progress"] == "40%"
        assert "registry is away" in world.condition(DISK, "root", "Ready")["message"]

        self.end(world, WorkEnd())
        status = world.status(DISK, "root")
        assert (status["phase"], status["progress"]) == ("Ready", "100%")
        assert world.get(PVC, "vmd-root")["metadata"]["annotations"][FILLED_ANNOTATION] == "true"
        world.settle()
        assert self.pod(world) is None

    def test_what_was_cut_off_goes_on(self, world: World) -> None:
        self.end(world, None)
        assert world.condition(DISK, "root", "Ready")["reason"] == "Interrupted"
        assert self.pod(world) is None
        world.settle()
        assert self.pod(world) is not None

    def test_an_error_that_stays_fails_the_disk(self, world: World) -> None:
        self.end(world, WorkEnd(reason="CorruptImage", message="the image is broken"))
        status = world.status(DISK, "root")
        assert (status["phase"], status["failureReason"]) == ("Failed", "CorruptImage")
        assert self.pod(world) is None

    def test_deleting_the_disk_ends_the_copy_first(self, world: World) -> None:
        pod = self.pod(world)
        assert pod is not None
        world.run_pod(pod["metadata"]["name"])
        assert world.delete(DISK, "root") is not None, "the claim stays as long as it is written to"
        assert "deletionTimestamp" in world.get(POD, pod["metadata"]["name"])["metadata"]
        world.finish_deletion(pod["metadata"]["name"])
        assert world.find(DISK, "root") is None

    def test_an_empty_disk_is_ready_at_once(self) -> None:
        world = World()
        world.apply(DISK, "data", {"persistentVolumeClaim": {"size": "1Gi"}, "provisioning": "Eager"})
        world.bind("vmd-data")
        assert world.status(DISK, "data")["phase"] == "Ready"
