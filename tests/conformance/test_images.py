"""Images under either API server: who may use which, and one that is copied into a claim. The node is played."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from controller.api.resource import CLUSTER_IMAGE, DISK, IMAGE, MACHINE, NAMESPACE, POD, PVC, Resource
from controller.disks.claim import FILLED_ANNOTATION
from controller.launcher.spec import WorkEnd
from controller.runtime.cluster import Object
from controller.runtime.errors import ClusterError
from dvcr.jobs.job import JobProgress, JobState
from tests.integration.test_controller_process import Running
from tests.support.cluster import ClusterProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(900)

HTTP = {"type": "HTTP", "http": {"url": "http://images.example.com/y.iso"}}
NAMES = {CLUSTER_IMAGE: "everybodys", IMAGE: "ones"}
BLOCKS = {CLUSTER_IMAGE: "clusterVirtualMachineImage", IMAGE: "virtualMachineImage"}
HOME, AWAY = "one", "two"


class Story:
    """A controller, an image of the cluster and one of the namespace `one`."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.cluster = running.cluster
        for namespace in (HOME, AWAY):
            self.cluster.create(NAMESPACE, {"metadata": {"name": namespace}})
            # A real API server takes pods only where there is an account for them.
            eventually(partial(self._takes_pods, namespace), f"namespace {namespace}", 60)
        self.publish(self.apply(CLUSTER_IMAGE, NAMES[CLUSTER_IMAGE], None, {"dataSource": HTTP}), "cvmi/everybodys")
        self.publish(self.apply(IMAGE, NAMES[IMAGE], HOME, {"dataSource": HTTP}), "vmi/one/ones")
        self.wait_phase(CLUSTER_IMAGE, NAMES[CLUSTER_IMAGE], None, "Ready")
        self.wait_phase(IMAGE, NAMES[IMAGE], HOME, "Ready")

    def apply(self, resource: Resource, name: str, namespace: str | None, spec: dict[str, Any]) -> Object:
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": spec}
        return self.cluster.create(resource, obj, strict=True)

    def publish(self, image: Object, repository: str) -> None:
        """As a worker does, once it was told to."""
        uid = image["metadata"]["uid"]
        eventually(lambda: self.running.board.progress(uid) is not None, "the job", 60)
        self.running.registry.add(repository, uid, cdrom=True)
        self.running.board.report(uid, JobProgress(state=JobState.SUCCEEDED))

    def status(self, resource: Resource, name: str, namespace: str | None) -> dict[str, Any]:
        return (self.cluster.get(resource, name, namespace) or {}).get("status") or {}

    def wait_phase(self, resource: Resource, name: str, namespace: str | None, phase: str) -> None:
        what = f"{resource.kind} {name} {phase}"
        eventually(lambda: self.status(resource, name, namespace).get("phase") == phase, what, 60)

    def wait_told(self, resource: Resource, name: str, namespace: str, message: str) -> None:
        def told() -> bool:
            conditions = self.status(resource, name, namespace).get("conditions") or ()
            return any((c["reason"], c["message"]) == ("ImageNotFound", message) for c in conditions)

        eventually(told, f"{resource.kind} {namespace}/{name}: {message}", 60)

    def wait_gone(self, resource: Resource, name: str, namespace: str) -> None:
        what = f"{resource.kind} {name} is gone"
        eventually(lambda: self.cluster.get(resource, name, namespace) is None, what, 60)

    def end_pod(self, name: str, namespace: str, last_word: WorkEnd) -> None:
        """As the node does where a container has ended."""
        ended = {"exitCode": 0, "reason": "Completed", "message": last_word.model_dump_json()}
        container = {
            "name": "fill", "image": "dvcr", "imageID": "", "ready": False, "restartCount": 0,
            "state": {"terminated": ended},
        }  # fmt: skip
        status = {"status": {"phase": "Succeeded", "containerStatuses": [container]}}
        self.cluster.patch(POD, name, status, namespace, "status")

    def _takes_pods(self, namespace: str) -> bool:
        probe = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": namespace},
            "spec": {"containers": [{"name": "probe", "image": "none"}]},
        }  # fmt: skip
        try:
            self.cluster.create(POD, probe)
        except ClusterError:
            return False
        self.cluster.delete(POD, "probe", namespace, grace_period_s=0)
        return True


@pytest.fixture(scope="module")
def story(server: ClusterProcess) -> Iterator[Story]:
    running = Running(server)
    try:
        yield Story(running)
    finally:
        running.stop()


@pytest.mark.parametrize("namespace", [HOME, AWAY])
@pytest.mark.parametrize("named", [CLUSTER_IMAGE, IMAGE], ids=lambda each: each.kind)
def test_images_of_the_cluster_are_everybodys_and_others_their_namespaces(
    story: Story, named: Resource, namespace: str
) -> None:
    image = {"type": named.kind, BLOCKS[named]: {"name": NAMES[named]}}
    name = f"of-{NAMES[named]}"
    story.apply(DISK, name, namespace, {"persistentVolumeClaim": {}, "dataSource": image})
    story.apply(IMAGE, name, namespace, {"dataSource": image})
    machine = {"cpu": {"cores": 1}, "memory": {"size": "128Mi"}, "blockDevices": [image]}
    story.apply(MACHINE, name, namespace, machine)

    if named is IMAGE and namespace == AWAY:
        missing = "waits for VirtualMachineImage 'ones', which does not exist"
        for resource in (DISK, IMAGE, MACHINE):
            story.wait_told(resource, name, namespace, missing)
            assert story.status(resource, name, namespace)["phase"] == "Pending"
        assert story.cluster.get(PVC, f"vmd-{name}", namespace) is None
        assert story.cluster.get(POD, f"vm-{name}", namespace) is None
        return
    eventually(lambda: story.cluster.get(PVC, f"vmd-{name}", namespace), "the disk's claim", 60)
    eventually(lambda: story.cluster.get(POD, f"vm-{name}", namespace), "the machine's pod", 60)
    story.wait_phase(IMAGE, name, namespace, "Provisioning")


def test_an_image_in_a_claim(story: Story) -> None:
    spec = {"dataSource": HTTP, "storage": "PersistentVolumeClaim"}
    image = story.apply(IMAGE, "kept", HOME, spec)
    story.publish(image, "vmi/one/kept")
    fill = f"fill-{image['metadata']['uid']}"
    eventually(lambda: story.cluster.get(POD, fill, HOME), "the pod that fills the claim", 60)
    assert story.status(IMAGE, "kept", HOME)["phase"] != "Ready"
    story.end_pod(fill, HOME, WorkEnd())
    story.wait_phase(IMAGE, "kept", HOME, "Ready")
    claim = story.cluster.get(PVC, "vmi-kept", HOME)
    assert claim is not None
    assert claim["metadata"]["annotations"][FILLED_ANNOTATION] == "true"
    assert story.status(IMAGE, "kept", HOME)["target"]["persistentVolumeClaimName"] == "vmi-kept"
    story.wait_gone(POD, fill, HOME)

    story.cluster.delete(PVC, "vmi-kept", HOME)
    story.wait_phase(IMAGE, "kept", HOME, "PVCLost")
    story.wait_gone(PVC, "vmi-kept", HOME)
    metadata = {key: claim["metadata"][key] for key in ("name", "namespace", "annotations", "ownerReferences")}
    story.cluster.create(PVC, {**claim, "metadata": metadata, "status": {}})
    story.wait_phase(IMAGE, "kept", HOME, "Ready")

    story.cluster.delete(IMAGE, "kept", HOME)
    story.wait_gone(IMAGE, "kept", HOME)
    story.wait_gone(PVC, "vmi-kept", HOME)
    assert ("vmi/one/kept", image["metadata"]["uid"]) not in story.running.registry.images
