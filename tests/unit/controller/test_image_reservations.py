"""Images that are deleted at the moment in which something begins to use them."""

import threading
from collections.abc import Callable, Hashable
from typing import Any

import pytest

from controller.api.resource import CLUSTER_IMAGE, DISK, GROUP, IMAGE, MACHINE, POD, PVC, VERSION, Resource
from controller.launcher.spec import DiskStatus, MachineState, MachineStatus
from controller.runtime.errors import ClusterError, ConflictError, RefusedError
from controller.runtime.index import Index, Object
from tests.support.memory_cluster import MemoryCluster
from tests.unit.controller.test_reconcile_story import DISK_SPEC, MACHINE_SPEC, ready_image
from tests.unit.controller.world import World

DEBIAN = {"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": "debian"}}
DATA = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "data"}}
WAIT_S = 60
DISK_BEGINS = "waits for VirtualMachineDisk 'default/root', which may have begun to use it just now"


class Interleaved(MemoryCluster):
    """A cluster in which other things happen, once, before a write arrives (never, if they raise) or after a look."""

    def __init__(self) -> None:
        super().__init__()
        self.before_create: dict[Resource, Callable[[], object]] = {}
        self.before_status: dict[Resource, Callable[[], object]] = {}
        self.after_find: dict[Resource, Callable[[], object]] = {}
        self.sent: dict[Resource, Object] = {}
        """What was to be made last of each kind."""

    def create(self, resource: Resource, obj: Object) -> Object:
        self.sent[resource] = obj
        self.before_create.pop(resource, _nothing)()
        return super().create(resource, obj)

    def find(self, index: Index, value: Hashable) -> list[Object]:
        found = super().find(index, value)
        self.after_find.pop(index.resource, _nothing)()
        return found

    def update_status(self, resource: Resource, obj: Object) -> Object:
        self.before_status.pop(resource, _nothing)()
        return super().update_status(resource, obj)


def _nothing() -> None:
    pass


class Moment:
    """A world with the image `debian`, which is Ready, pass by pass."""

    def __init__(self) -> None:
        self.cluster = Interleaved()
        self.world = World(self.cluster)
        ready_image(self.world)

    def add(self, resource: Resource, name: str, spec: dict[str, Any]) -> None:
        """Make an object that no pass has seen."""
        metadata = {"name": name, "namespace": "default"}
        obj = {"apiVersion": f"{GROUP}/{VERSION}", "kind": resource.kind, "metadata": metadata, "spec": spec}
        self.cluster.create(resource, obj)

    def visit(self, resource: Resource, name: str) -> None:
        """One pass."""
        self.world.reconcilers[resource].reconcile(("default", name))

    def visit_image(self) -> float | None:
        """One pass over the image; seconds after which there is to be another."""
        return self.world.reconcilers[CLUSTER_IMAGE].reconcile(("", "debian"))

    def delete_image(self) -> float | None:
        """Delete it, and make the first pass that knows."""
        self.cluster.delete(CLUSTER_IMAGE, "debian")
        return self.visit_image()

    @property
    def obstacle(self) -> str:
        """What the deletion of the image waits for."""
        assert self.world.registry.images != {}, "the artifact is removed"
        condition = self.world.condition(CLUSTER_IMAGE, "debian", "Ready")
        assert condition["reason"] == "InUse"
        return str(condition["message"])

    @property
    def removed(self) -> bool:
        return self.world.find(CLUSTER_IMAGE, "debian") is None and self.world.registry.images == {}


def test_an_image_that_is_deleted_while_the_claim_of_a_disk_is_made_stays_for_the_disk() -> None:
    moment = Moment()
    moment.add(DISK, "root", DISK_SPEC)
    moment.cluster.before_create[PVC] = moment.delete_image
    moment.visit(DISK, "root")
    assert moment.obstacle == DISK_BEGINS
    moment.visit_image()
    assert moment.obstacle.startswith("waits for VirtualMachineDisk 'default/root' to be copied")
    moment.world.delete(DISK, "root")
    assert moment.removed


def test_a_claim_that_is_made_just_after_a_deletion_has_looked_for_claims_is_not_missed() -> None:
    moment = Moment()
    moment.add(DISK, "root", DISK_SPEC)
    begun, looked = threading.Event(), threading.Event()

    def make_claim_later() -> None:
        begun.set()
        assert looked.wait(WAIT_S)

    def let_disk_finish() -> None:
        looked.set()
        disk.join(WAIT_S)

    moment.cluster.before_create[PVC] = make_claim_later
    disk = threading.Thread(target=moment.visit, args=(DISK, "root"))
    disk.start()
    assert begun.wait(WAIT_S)
    moment.cluster.after_find[PVC] = let_disk_finish
    moment.delete_image()
    assert moment.obstacle == DISK_BEGINS
    assert moment.world.find(PVC, "vmd-root"), "it is there before the artifact would be removed"


def test_a_deletion_that_finds_somebody_beginning_looks_again_by_itself() -> None:
    moment, again_s = Moment(), []
    moment.add(DISK, "root", DISK_SPEC)
    moment.cluster.before_create[PVC] = lambda: again_s.append(moment.delete_image())
    moment.visit(DISK, "root")
    again_s.append(moment.visit_image())
    assert again_s == [1.0, None], "of the claim there are events"


def test_an_image_that_is_deleted_while_a_copy_of_it_is_begun_stays_for_the_copy() -> None:
    moment = Moment()
    moment.add(IMAGE, "copy", {"dataSource": DEBIAN})
    moment.cluster.before_status[IMAGE] = moment.delete_image
    moment.visit(IMAGE, "copy")
    assert moment.obstacle == "waits for VirtualMachineImage 'default/copy', which may have begun to use it just now"
    moment.visit_image()
    assert moment.obstacle == "waits for VirtualMachineImage 'default/copy' to be made from it"


def test_a_pass_that_breaks_off_leaves_the_image_to_the_next_one() -> None:
    moment = Moment()
    moment.add(IMAGE, "copy", {"dataSource": DEBIAN})
    label = {"metadata": {"labels": {"some": "label"}}}
    moment.cluster.before_status[IMAGE] = lambda: moment.cluster.patch(IMAGE, "copy", label, "default")
    with pytest.raises(ConflictError):
        moment.visit(IMAGE, "copy")
    moment.delete_image()
    assert moment.obstacle, "the job is sent, but no status tells"
    moment.visit(IMAGE, "copy")
    moment.visit_image()
    assert moment.obstacle == "waits for VirtualMachineImage 'default/copy' to be made from it"


def test_an_image_that_leaves_the_specification_of_a_machine_while_it_starts_stays_for_its_guest() -> None:
    moment = Moment()
    moment.world.apply(DISK, "data", {"persistentVolumeClaim": {"size": "1Gi"}})
    moment.world.bind("vmd-data")
    moment.add(MACHINE, "web", {**MACHINE_SPEC, "blockDevices": [DATA, DEBIAN]})

    def change_their_mind() -> None:
        moment.cluster.patch(MACHINE, "web", {"spec": {"blockDevices": [DATA]}}, "default")
        moment.delete_image()

    moment.cluster.before_create[POD] = change_their_mind
    with pytest.raises(ConflictError):
        moment.visit(MACHINE, "web")
    assert moment.obstacle == "waits for VirtualMachine 'default/web', which may have begun to use it just now"
    moment.world.launchers.status = None
    moment.world.settle()
    assert moment.obstacle.startswith("waits for VirtualMachine 'default/web' (take it out of blockDevices and restart")
    moment.world.run_pod()
    moment.world.launchers.status = MachineStatus(state=MachineState.RUNNING, disks=(DiskStatus(name="cvmi-debian"),))
    moment.world.settle()
    assert moment.obstacle, "the guest has it until it restarts"
    moment.world.delete(MACHINE, "web")
    moment.world.finish_deletion()
    assert moment.removed


def no_answer() -> None:
    raise ClusterError("no answer")


def test_an_image_stays_for_a_claim_of_which_there_was_no_answer_and_that_was_made_after_all() -> None:
    moment = Moment()
    moment.add(DISK, "root", DISK_SPEC)
    moment.cluster.before_create[PVC] = no_answer
    with pytest.raises(ClusterError):
        moment.visit(DISK, "root")
    moment.delete_image()
    assert moment.obstacle == DISK_BEGINS
    moment.cluster.create(PVC, moment.cluster.sent[PVC])
    moment.visit(DISK, "root")
    moment.visit_image()
    assert moment.obstacle.startswith("waits for VirtualMachineDisk 'default/root' to be copied")


def test_an_image_that_is_to_go_is_not_held_by_those_who_read_that_it_is() -> None:
    moment = Moment()
    moment.world.apply(DISK, "root", DISK_SPEC)
    moment.world.delete(CLUSTER_IMAGE, "debian")
    moment.add(DISK, "late", DISK_SPEC)
    again_s: list[float | None] = []
    moment.cluster.before_status[DISK] = lambda: again_s.append(moment.visit_image())
    moment.visit(DISK, "late")
    assert again_s == [None]
    assert "late" not in moment.obstacle


def test_an_image_is_not_held_for_a_claim_that_the_cluster_refuses() -> None:
    moment = Moment()
    moment.add(DISK, "root", DISK_SPEC)
    moment.cluster.refused[PVC] = RefusedError("over the quota", status=403)
    with pytest.raises(RefusedError):
        moment.visit(DISK, "root")
    moment.delete_image()
    assert moment.removed


def test_an_image_is_not_held_for_a_disk_that_is_gone() -> None:
    moment = Moment()
    moment.add(DISK, "root", DISK_SPEC)
    moment.cluster.before_create[PVC] = no_answer
    with pytest.raises(ClusterError):
        moment.visit(DISK, "root")
    moment.delete_image()
    assert moment.obstacle == DISK_BEGINS
    moment.world.delete(DISK, "root")
    moment.visit(DISK, "root")
    moment.visit_image()
    assert moment.removed
