"""`storage: PersistentVolumeClaim`: an image that is imported, then copied into a claim."""

import json
from typing import Any

import pytest

from controller.api.resource import DISK, IMAGE, MACHINE, POD, PVC
from controller.concerns import image_of_claim
from controller.disks.claim import FILLED_ANNOTATION
from controller.launcher.spec import FillSpec, WorkEnd, WorkStatus
from dvcr.jobs.job import JobProgress, JobState
from tests.unit.controller.test_reconcile_disks import storage_class
from tests.unit.controller.test_reconcile_story import MACHINE_SPEC
from tests.unit.controller.world import World

HTTP = {"type": "HTTP", "http": {"url": "http://x/y.img"}}
SPEC = {"dataSource": HTTP, "storage": "PersistentVolumeClaim"}
CDROM = {"type": "VirtualMachineImage", "virtualMachineImage": {"name": "a"}}
OF_IMAGE = {"persistentVolumeClaim": {}, "dataSource": CDROM}


class Story:
    """A world with such an image `a`, whose bytes are in the registry."""

    def __init__(self, spec: dict[str, Any] | None = None) -> None:
        self.world = World()
        self.uid = self.world.apply(IMAGE, "a", spec or SPEC)["metadata"]["uid"]

    def imported(self) -> "Story":
        self.world.publish("vmi/default/a", self.uid)
        self.world.settle()
        return self

    def ready(self) -> "Story":
        self.imported()
        self.world.bind("vmi-a")
        self.end(WorkEnd())
        self.world.settle()
        return self

    @property
    def pod(self) -> dict[str, Any] | None:
        return self.world.find(POD, f"fill-{self.uid}")

    def end(self, last_word: WorkEnd) -> None:
        """As the node agent tells of the pod that fills the claim."""
        state = {"terminated": {"exitCode": 0, "message": last_word.model_dump_json()}}
        phase = "Failed" if last_word.reason else "Succeeded"
        statuses = [{"name": "fill", "state": state}]
        self.world.cluster.set_status(POD, f"fill-{self.uid}", "default", phase=phase, containerStatuses=statuses)
        self.world.reconcilers[IMAGE].reconcile(("default", "a"))

    def told(self) -> tuple[str, str, str]:
        """Phase, reason and progress."""
        status = self.world.status(IMAGE, "a")
        return status["phase"], self.world.condition(IMAGE, "a", "Ready")["reason"], status["progress"]

    def message(self) -> str:
        message: str = self.world.condition(IMAGE, "a", "Ready")["message"]
        return message


def test_the_import_is_half_of_it_and_the_copy_into_the_claim_the_rest() -> None:
    story = Story()
    world = story.world
    world.board.report(story.uid, JobProgress(state=JobState.RUNNING, percent=80, updated_at=world.now))
    world.settle()
    assert story.told() == ("Provisioning", "Importing", "40%")
    assert world.find(PVC, "vmi-a") is None

    story.imported()
    assert story.told() == ("Provisioning", "WaitForVolume", "50%")
    assert story.message() == (
        "waits for a volume to stand behind PersistentVolumeClaim 'vmi-a': it names no storage class, and the cluster"
        " has no default one (waits for a node that can mount the disk)"
    )
    claim = world.get(PVC, "vmi-a")
    assert claim["metadata"]["annotations"] == {
        "virtualization.deckhouse.io/image": "vmi/default/a@sha256:" + "a" * 64,
        "virtualization.deckhouse.io/disk-size": "64Mi",
    }
    assert [owner["uid"] for owner in claim["metadata"]["ownerReferences"]] == [story.uid]
    target = {"registryURL": f"registry.test/vmi/default/a:{story.uid}", "persistentVolumeClaimName": "vmi-a"}
    assert world.status(IMAGE, "a")["target"] == target
    pod = story.pod
    assert pod is not None, "a volume may come to be only where a pod wants it"
    command = pod["spec"]["containers"][0]["command"]
    assert command[:2] == ["dvcr-launcher", "fill"]
    told = FillSpec.model_validate(json.loads(command[2])).disk
    assert told.image is not None
    assert (told.image.repository, told.size_bytes) == ("vmi/default/a", 64 * 2**20)
    assert pod["spec"]["volumes"][0] == {"name": "disk", "persistentVolumeClaim": {"claimName": "vmi-a"}}

    world.bind("vmi-a")
    world.work_progress.told = WorkStatus(percent=60)
    world.run_pod(pod["metadata"]["name"])
    assert story.told() == ("Provisioning", "Copying", "80%")

    story.end(WorkEnd())
    assert story.told() == ("Ready", "Ready", "100%")
    assert story.message() == "the image is in the registry and in PersistentVolumeClaim 'vmi-a'"
    assert world.get(PVC, "vmi-a")["metadata"]["annotations"][FILLED_ANNOTATION] == "true"
    world.settle()
    assert story.pod is None
    before = world.cluster.writes
    world.settle()
    assert world.cluster.writes == before


def test_the_claim_is_of_the_storage_class_of_the_image_and_as_that_says() -> None:
    world = World()
    storage_class(world, "fast", volume_mode="Block", access_mode="ReadWriteMany")
    uid = world.apply(IMAGE, "a", {**SPEC, "persistentVolumeClaim": {"storageClassName": "fast"}})["metadata"]["uid"]
    world.publish("vmi/default/a", uid)
    world.settle()
    spec = world.get(PVC, "vmi-a")["spec"]
    assert (spec["storageClassName"], spec["volumeMode"], spec["accessModes"]) == ("fast", "Block", ["ReadWriteMany"])


def test_a_copy_that_was_cut_off_goes_on_and_an_error_that_stays_fails_the_image() -> None:
    story = Story().imported()
    story.end(WorkEnd(reason="Interrupted", message="cut off", retryable=True))
    assert story.told() == ("Provisioning", "WaitForVolume", "50%")
    story.world.bind("vmi-a")
    assert story.pod is not None
    story.end(WorkEnd(reason="CorruptImage", message="the image is broken"))
    status = story.world.status(IMAGE, "a")
    assert (status["phase"], status["failureReason"]) == ("Failed", "CorruptImage")
    assert story.pod is None


def test_a_claim_that_is_gone_is_told_and_the_image_heals_when_it_is_back() -> None:
    story = Story().ready()
    world = story.world
    claim = world.get(PVC, "vmi-a")
    world.cluster.delete(PVC, "vmi-a", "default")
    assert list(image_of_claim(("default", "vmi-a"), world.cluster)) == [("default", "a")]
    world.settle()
    assert story.told() == ("PVCLost", "PVCLost", "100%")
    assert "PersistentVolumeClaim 'vmi-a' is gone; restore it" in story.message()
    assert world.find(PVC, "vmi-a") is None, "it is not made again behind the user's back"
    world.apply(DISK, "root", OF_IMAGE)
    assert world.condition(DISK, "root", "Ready")["message"] == "waits for VirtualMachineImage 'a', which is PVCLost"

    world.cluster.restore(PVC, claim)
    world.settle()
    assert story.told() == ("Ready", "Ready", "100%")
    world.cluster.set_status(PVC, "vmi-a", "default", phase="Lost")
    world.settle()
    assert story.told() == ("PVCLost", "PVCLost", "100%")
    world.bind("vmi-a")
    assert story.told() == ("Ready", "Ready", "100%")


def test_an_artifact_that_is_gone_is_lost_also_where_the_claim_has_the_bytes() -> None:
    story = Story().ready()
    stored = story.world.registry.images.pop(("vmi/default/a", story.uid))
    story.world.settle()
    assert story.told() == ("ImageLost", "ImageLost", "100%")
    story.world.registry.images["vmi/default/a", story.uid] = stored
    story.world.settle()
    assert story.told() == ("Ready", "Ready", "100%")


def test_machines_and_disks_use_it_as_any_image_and_hold_its_deletion() -> None:
    story = Story().ready()
    world = story.world
    world.apply(DISK, "root", OF_IMAGE)
    world.bind("vmd-root")
    device = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}
    world.apply(MACHINE, "web", {**MACHINE_SPEC, "blockDevices": [device, CDROM]})
    pod = world.get(POD, "vm-web")
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v]
    assert claims == ["vmd-root"], "a machine reads the image from the registry, wherever it runs"
    world.run_pod()
    assert world.status(IMAGE, "a")["usedInVMs"] == [{"name": "web", "namespace": "default"}]

    assert world.delete(IMAGE, "a") is not None
    assert story.message().startswith("waits for VirtualMachine 'default/web'")
    assert world.find(PVC, "vmi-a") is not None
    world.delete(MACHINE, "web")
    world.finish_deletion()
    assert story.message().startswith("waits for VirtualMachineDisk 'default/root' to be copied")
    world.delete(DISK, "root")
    assert [world.find(*what) for what in ((IMAGE, "a"), (PVC, "vmi-a"))] == [None, None]
    assert world.registry.images == {}


def test_deleting_it_ends_the_copy_first() -> None:
    story = Story().imported()
    world = story.world
    world.bind("vmi-a")
    world.run_pod(f"fill-{story.uid}")
    assert world.delete(IMAGE, "a") is not None
    assert story.message() == "waits for the end of the copy into its claim"
    world.finish_deletion(f"fill-{story.uid}")
    assert [world.find(*what) for what in ((IMAGE, "a"), (PVC, "vmi-a"))] == [None, None]
    assert world.registry.images == {}


def test_a_pod_of_the_users_that_has_the_claim_holds_the_deletion() -> None:
    story = Story().ready()
    world = story.world
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "vmi-a"}}]
    pod = {"metadata": {"name": "backup", "namespace": "default"}, "spec": {"volumes": volumes}}
    world.cluster.create(POD, pod)
    assert world.delete(IMAGE, "a") is not None
    assert story.message() == "waits for pod 'backup' to stop using its claim"
    world.delete(POD, "backup")
    assert world.find(IMAGE, "a") is None


@pytest.mark.parametrize("spec", [{"dataSource": HTTP}, {"dataSource": HTTP, "storage": "ContainerRegistry"}])
def test_an_image_in_the_registry_has_no_claim(spec: dict[str, Any]) -> None:
    story = Story(spec).imported()
    assert story.told() == ("Ready", "Ready", "100%")
    assert story.world.cluster.list(PVC) == []
    assert "persistentVolumeClaimName" not in story.world.status(IMAGE, "a")["target"]


def test_an_image_of_a_disk_is_copied_into_its_claim_too() -> None:
    world = World()
    world.apply(DISK, "root", {"persistentVolumeClaim": {"size": "64Mi"}})
    world.bind("vmd-root")
    source = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}
    uid = world.apply(IMAGE, "a", {**SPEC, "dataSource": source})["metadata"]["uid"]
    world.work_progress.told = WorkStatus(percent=40)
    world.run_pod(f"capture-{uid}")
    assert world.status(IMAGE, "a")["progress"] == "20%"
    world.publish("vmi/default/a", uid)
    world.settle()
    assert world.find(PVC, "vmi-a") is not None
    assert world.condition(IMAGE, "a", "Ready")["reason"] == "WaitForVolume"
