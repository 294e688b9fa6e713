"""The main job through all reconcilers: image, disk, machine, stop."""

from controller.api.resource import CLUSTER_IMAGE, DISK, MACHINE, OPERATION, POD, PVC, SECRET
from dvcr.jobs.job import JobProgress, JobState
from tests.unit.controller.world import NOW, World

IMAGE_SPEC = {"dataSource": {"type": "HTTP", "http": {"url": "http://x/y.img", "checksum": {"md5": "AB" * 16}}}}
DISK_SPEC = {
    "persistentVolumeClaim": {},
    "dataSource": {"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": "debian"}},
}
MACHINE_SPEC = {
    "cpu": {"cores": 2, "coreFraction": "25%"},
    "memory": {"size": "1Gi"},
    "blockDevices": [{"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}],
    "provisioning": {"type": "UserData", "userData": "#cloud-config"},
}


def ready_image(world: World) -> str:
    uid: str = world.apply(CLUSTER_IMAGE, "debian", IMAGE_SPEC)["metadata"]["uid"]
    world.publish("cvmi/debian", uid)
    world.board.report(uid, JobProgress(state=JobState.SUCCEEDED, percent=100, started_at=NOW, finished_at=NOW))
    world.settle()
    return uid


def running_machine(world: World, **spec: object) -> None:
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    world.bind("vmd-root")
    world.apply(MACHINE, "web", {**MACHINE_SPEC, **spec})
    if world.find(POD, "vm-web"):
        world.run_pod()


def test_an_image_is_submitted_followed_and_becomes_ready() -> None:
    world = World()
    uid = world.apply(CLUSTER_IMAGE, "debian", IMAGE_SPEC)["metadata"]["uid"]
    (job,) = world.board.submitted
    assert (job.id, job.repository, job.tag, job.checksums) == (uid, "cvmi/debian", uid, {"md5": "ab" * 16})
    running = JobProgress(
        state=JobState.RUNNING, percent=37, average_speed=2048, current_speed=1024, updated_at=world.now
    )
    world.board.report(uid, running)
    world.settle()
    status = world.status(CLUSTER_IMAGE, "debian")
    assert (status["phase"], status["progress"]) == ("Provisioning", "37%")
    assert status["downloadSpeed"] == {
        "avg": "2KiB/s", "current": "1KiB/s", "avgBytes": "2048", "currentBytes": "1024",
    }  # fmt: skip
    world.publish("cvmi/debian", uid)
    world.settle()
    status = world.status(CLUSTER_IMAGE, "debian")
    assert (status["phase"], status["progress"], status["format"], status["cdrom"]) == ("Ready", "100%", "qcow2", False)
    assert status["size"] == {"stored": "0", "storedBytes": "0", "unpacked": "64Mi", "unpackedBytes": "67108864"}
    assert status["target"] == {"registryURL": f"registry.test/cvmi/debian:{uid}"}
    assert status["observedGeneration"] == 1


def test_the_main_job() -> None:
    world = World()
    running_machine(world)
    assert world.status(DISK, "root")["phase"] == "Ready"
    assert world.status(DISK, "root")["capacity"] == "64Mi"
    assert world.get(PVC, "vmd-root")["metadata"]["annotations"] == {
        "virtualization.deckhouse.io/image": "cvmi/debian@sha256:" + "a" * 64,
        "virtualization.deckhouse.io/disk-size": "64Mi",
    }
    pod = world.get(POD, "vm-web")
    assert pod["metadata"]["labels"] == {"vm.virtualization.deckhouse.io/name": "web"}
    assert pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "500m"
    assert world.find(SECRET, "vm-web")
    status = world.status(MACHINE, "web")
    assert (status["phase"], status["nodeName"], status["ipAddress"]) == ("Running", "node", "127.64.0.2")
    stop = {"type": "Stop", "virtualMachineName": "web"}
    world.apply(OPERATION, "stop", stop)
    assert world.status(OPERATION, "stop")["phase"] == "InProgress"
    assert world.status(MACHINE, "web")["phase"] == "Stopping"
    world.finish_deletion()
    assert world.status(OPERATION, "stop")["phase"] == "Completed"
    assert world.status(MACHINE, "web")["phase"] == "Stopped"
    assert "virtualization.deckhouse.io/operation" not in world.get(MACHINE, "web")["metadata"]["annotations"]
    assert world.find(POD, "vm-web") is None


def test_nothing_is_written_when_nothing_changes() -> None:
    world = World()
    running_machine(world)
    before = world.cluster.writes
    world.pass_time(60)
    world.settle()
    assert world.cluster.writes == before
