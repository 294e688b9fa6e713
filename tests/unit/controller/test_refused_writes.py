"""What the cluster refuses, by a role, a quota, a policy or a webhook: the object says it, and goes on by itself."""

from typing import Any

import pytest

from controller.api.resource import (
    ADDRESS_CLAIM,
    ADDRESS_LEASE,
    ATTACHMENT,
    CLUSTER_IMAGE,
    CPU_MODEL,
    DISK,
    DISRUPTION_BUDGET,
    EVENT,
    IMAGE,
    MACHINE,
    OPERATION,
    POD,
    Resource,
)
from controller.launcher.spec import DiskStatus, MachineState, MachineStatus
from controller.runtime.errors import ClusterError, error_from
from controller.runtime.subject import FINALIZER
from tests.unit.controller.test_reconcile_story import DISK_SPEC, IMAGE_SPEC, MACHINE_SPEC, ready_image, running_machine
from tests.unit.controller.test_status_promises import BLOCK
from tests.unit.controller.world import World, check_promises, operate

SPECS: dict[Resource, dict[str, Any]] = {
    CLUSTER_IMAGE: IMAGE_SPEC,
    IMAGE: IMAGE_SPEC,
    DISK: DISK_SPEC,
    MACHINE: MACHINE_SPEC | {"runPolicy": "AlwaysOff"},
    OPERATION: {"type": "Start", "virtualMachineName": "none"},
    ATTACHMENT: {"virtualMachineName": "web", "blockDevice": BLOCK},
    CPU_MODEL: {"type": "Host"},
    ADDRESS_CLAIM: {},
    ADDRESS_LEASE: {"claimRef": {"name": "none", "namespace": "default"}, "reclaimPolicy": "Retain"},
}
STOP = {
    "kind": OPERATION.kind,
    "apiVersion": OPERATION.api_version,
    "metadata": {"name": "op", "namespace": "default"},
    "spec": {"type": "Stop", "virtualMachineName": "web"},
}
MAIN = {MACHINE: "Running", OPERATION: "Completed", ATTACHMENT: "Attached"}
WORDS = 'admission webhook "guard.example.com" denied the request: finalizers are not for you'
ANSWERS = {400: "BadRequest", 403: "Forbidden", 422: "Invalid", 500: "InternalError"}


def answer(status: int = 403) -> ClusterError:
    return error_from(status, {"reason": ANSWERS[status], "message": WORDS}, "PUT")


def name_of(resource: Resource) -> str:
    return "ip-10-0-0-9" if resource == ADDRESS_LEASE else "it"


def refused_pass(world: World, resource: Resource) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        world.reconcile(resource, ("default" if resource.namespaced else "", name_of(resource)))
    return caught.value


@pytest.mark.parametrize("status", ANSWERS)
@pytest.mark.parametrize("resource", SPECS, ids=lambda resource: resource.kind)
def test_a_finalizer_that_may_not_be_put_on_is_told_of_and_put_on_once_it_may(resource: Resource, status: int) -> None:
    world, name = World(cidrs=("10.0.0.0/24",)), name_of(resource)
    world.cluster.locked[resource] = answer(status)
    with pytest.raises(ClusterError):
        world.apply(resource, name, SPECS[resource])
    assert refused_pass(world, resource).retryable
    check_promises(resource, world.get(resource, name))
    condition = world.condition(resource, name, MAIN.get(resource, "Ready"))
    told = f"the finalizer {FINALIZER} cannot be put on: {WORDS}"
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", ANSWERS[status], told)
    assert told in [event["message"] for event in world.cluster.list(EVENT)]
    writes = world.cluster.writes
    refused_pass(world, resource)
    assert world.cluster.writes == writes, "nothing new, nothing written"
    world.cluster.locked.clear()
    world.settle()
    made = world.get(resource, name)
    assert FINALIZER in made["metadata"]["finalizers"]
    assert WORDS not in str(made["status"])


@pytest.mark.parametrize("resource", SPECS, ids=lambda resource: resource.kind)
def test_a_finalizer_that_may_not_be_taken_off_is_told_of_and_taken_off_once_it_may(resource: Resource) -> None:
    world, name = World(cidrs=("10.0.0.0/24",)), name_of(resource)
    world.apply(resource, name, SPECS[resource])
    ended = resource == OPERATION
    world.cluster.delete(resource, name, "default" if resource.namespaced else None)
    world.cluster.locked[resource] = answer()
    refused_pass(world, resource)
    condition = world.condition(resource, name, "Maintained" if ended else MAIN.get(resource, "Ready"))
    told = f"the finalizer {FINALIZER} cannot be taken off: {WORDS}"
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", "Forbidden", told)
    assert told in [event["message"] for event in world.cluster.list(EVENT)]
    writes = world.cluster.writes
    refused_pass(world, resource)
    assert world.cluster.writes == writes, "nothing new, nothing written"
    world.cluster.locked.clear()
    world.settle()
    assert world.find(resource, name) is None


def test_what_is_ready_stays_so_while_its_finalizer_may_not_be_put_on_again() -> None:
    world = World()
    ready_image(world)
    image = world.get(CLUSTER_IMAGE, "debian")
    image["metadata"]["finalizers"] = []
    world.cluster.restore(CLUSTER_IMAGE, image)
    world.cluster.locked[CLUSTER_IMAGE] = answer()
    with pytest.raises(ClusterError):
        world.settle()
    assert world.condition(CLUSTER_IMAGE, "debian", "Ready")["status"] == "True"
    assert world.condition(CLUSTER_IMAGE, "debian", "Maintained")["reason"] == "Forbidden"
    world.cluster.locked.clear()
    world.settle()
    permitted = world.condition(CLUSTER_IMAGE, "debian", "Maintained")
    assert (permitted["status"], permitted["message"]) == ("True", "nothing of its upkeep is refused any more")


def test_why_an_image_failed_stays_said_while_its_finalizer_may_not_be_put_on_again() -> None:
    world = World()
    world.apply(IMAGE, "it", IMAGE_SPEC)
    image = world.get(IMAGE, "it")
    image["metadata"]["finalizers"] = []
    image["status"] |= {"phase": "Failed", "failureReason": "UnknownFormat", "failureMessage": "no image"}
    image["status"]["conditions"][0] |= {"reason": "UnknownFormat", "message": "no image"}
    world.cluster.restore(IMAGE, image)
    world.cluster.locked[IMAGE] = answer()
    with pytest.raises(ClusterError):
        world.settle()
    assert world.condition(IMAGE, "it", "Maintained")["reason"] == "Forbidden"
    world.cluster.locked.clear()
    world.settle()
    assert world.condition(IMAGE, "it", "Ready")["reason"] == "UnknownFormat"


def test_an_operation_whose_request_may_not_be_handed_over_or_taken_back_says_so() -> None:
    world = World()
    running_machine(world)
    world.cluster.locked[MACHINE] = answer()
    key = ("default", "op")
    with pytest.raises(ClusterError):
        world.apply(OPERATION, "op", {"type": "Stop", "virtualMachineName": "web"})
    check_promises(OPERATION, world.get(OPERATION, "op"))
    condition = world.condition(OPERATION, "op", "Completed")
    told = f"the request cannot be handed to VirtualMachine 'web': {WORDS}"
    assert (condition["reason"], condition["message"]) == ("Forbidden", told)
    world.cluster.locked.clear()
    world.reconcile(OPERATION, key)
    assert world.status(OPERATION, "op")["phase"] == "InProgress"
    world.reconcile(MACHINE, ("default", "web"))
    world.cluster.delete(OPERATION, "op", "default")
    world.cluster.locked[MACHINE] = answer()
    with pytest.raises(ClusterError):
        world.reconcile(OPERATION, key)
    condition = world.condition(OPERATION, "op", "Completed")
    told = f"the request cannot be taken back from VirtualMachine 'web': {WORDS}"
    assert (condition["reason"], condition["message"]) == ("Forbidden", told)
    world.cluster.locked.clear()
    world.settle()
    assert world.find(OPERATION, "op") is None


def test_an_operation_that_has_ended_goes_on_to_say_how() -> None:
    world = World()
    running_machine(world)
    world.cluster.create(OPERATION, STOP)
    world.reconcile(OPERATION, ("default", "op"))
    for _ in range(2):
        world.reconcile(MACHINE, ("default", "web"))
        world.cluster.delete(POD, "vm-web", "default", grace_period_s=0)
    world.cluster.locked[MACHINE] = answer()
    for _ in range(3):
        with pytest.raises(ClusterError):
            world.reconcile(OPERATION, ("default", "op"))
    assert world.condition(OPERATION, "op", "Completed")["status"] == "True"
    told = f"the request cannot be taken back from VirtualMachine 'web': {WORDS}"
    assert world.condition(OPERATION, "op", "Maintained")["message"] == told
    world.cluster.locked.clear()
    world.settle()
    assert world.condition(OPERATION, "op", "Maintained")["status"] == "True"


def test_upkeep_that_is_refused_is_told_of_and_holds_up_nothing_else() -> None:
    world = World()
    world.cluster.refused[DISRUPTION_BUDGET] = answer()
    running_machine(world)
    assert world.condition(MACHINE, "web", "Running")["status"] == "True"
    permitted = world.condition(MACHINE, "web", "Maintained")
    assert (permitted["status"], permitted["reason"], permitted["message"]) == ("False", "Forbidden", WORDS)
    assert (world.reconcile(MACHINE, ("default", "web")) or 60) <= 30, "it is asked again"
    assert operate(world, "Stop")["phase"] == "InProgress"
    assert "deletionTimestamp" in world.get(POD, "vm-web")["metadata"]
    world.finish_deletion()
    assert world.status(MACHINE, "web")["phase"] == "Stopped"


def test_upkeep_is_made_good_once_it_may() -> None:
    world = World()
    world.cluster.refused[DISRUPTION_BUDGET] = answer()
    running_machine(world)
    world.cluster.refused.clear()
    world.settle()
    assert len(world.cluster.list(DISRUPTION_BUDGET)) == 1
    assert world.condition(MACHINE, "web", "Maintained")["status"] == "True"
    told = [event["reason"] for event in world.cluster.list(EVENT) if event["involvedObject"]["name"] == "web"]
    assert told.count("Maintained") == 1
    writes = world.cluster.writes
    world.settle()
    assert world.cluster.writes == writes


def test_labels_that_the_pod_may_not_have_are_told_of_and_set_once_they_may() -> None:
    world = World()
    running_machine(world)
    world.cluster.refusals[POD] = answer(422)
    world.cluster.patch(MACHINE, "web", {"metadata": {"labels": {"app": "shop"}}}, "default")
    world.settle()
    assert world.condition(MACHINE, "web", "Maintained")["reason"] == "Invalid"
    assert world.condition(MACHINE, "web", "Running")["status"] == "True"
    world.cluster.refusals.clear()
    world.settle()
    assert world.get(POD, "vm-web")["metadata"]["labels"]["app"] == "shop"
    assert world.condition(MACHINE, "web", "Maintained")["status"] == "True"


def test_a_pod_that_may_not_be_stopped_is_told_of_and_stopped_once_it_may() -> None:
    world = World()
    running_machine(world)
    world.cluster.locked[POD] = answer()
    with pytest.raises(ClusterError):
        world.change(MACHINE, "web", {"runPolicy": "AlwaysOff"})
    check_promises(MACHINE, world.get(MACHINE, "web"))
    assert world.status(MACHINE, "web")["phase"] == "Running"
    assert world.condition(MACHINE, "web", "Maintained")["message"] == WORDS
    world.cluster.locked.clear()
    world.settle()
    world.finish_deletion()
    assert world.status(MACHINE, "web")["phase"] == "Stopped"


def test_an_operation_says_what_is_refused_of_its_machine() -> None:
    world = World()
    running_machine(world)
    world.cluster.locked[POD] = answer()
    with pytest.raises(ClusterError):
        operate(world, "Stop")
    world.reconcile(OPERATION, ("default", "op"))
    told = f"waits for the machine to stop; it is Running ({WORDS})"
    assert world.condition(OPERATION, "op", "Completed")["message"] == told
    world.cluster.locked.clear()
    world.settle()
    world.finish_deletion()
    assert world.status(OPERATION, "op")["phase"] == "Completed"


def test_an_attachment_says_what_is_refused_of_its_machine() -> None:
    world = World()
    running_machine(world)
    world.apply(DISK, "data", {"persistentVolumeClaim": {"size": "1Gi"}})
    world.bind("vmd-data")
    world.launchers.status = MachineStatus(
        state=MachineState.RUNNING, disks=(DiskStatus(name="vmd-root", size_bytes=1, attached=True),)
    )
    world.cluster.refusals[POD] = answer()
    block = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "data"}}
    world.apply(ATTACHMENT, "more", {"virtualMachineName": "web", "blockDevice": block})
    condition = world.condition(ATTACHMENT, "more", "Attached")
    told = f"waits for the machine to take the disk ({WORDS})"
    assert (condition["reason"], condition["message"]) == ("Attaching", told)
    world.cluster.refusals.clear()
    world.settle()
    assert WORDS not in world.condition(ATTACHMENT, "more", "Attached")["message"]


def test_a_pod_that_has_ended_and_may_not_be_removed_is_told_of_and_removed_once_it_may() -> None:
    world = World()
    running_machine(world, runPolicy="Manual")
    operate(world, "Start")
    world.run_pod()
    world.cluster.locked[POD] = answer()
    with pytest.raises(ClusterError):
        world.end_pod("GuestShutdown")
    world.settle()
    assert world.condition(MACHINE, "web", "Maintained")["message"] == WORDS
    world.cluster.locked.clear()
    world.settle()
    assert world.find(POD, "vm-web") is None
    assert world.condition(MACHINE, "web", "Running")["reason"] == "GuestShutdown"


def test_a_deletion_that_may_not_stop_the_pod_is_told_of() -> None:
    world = World()
    running_machine(world)
    world.cluster.locked[POD] = answer()
    with pytest.raises(ClusterError):
        world.delete(MACHINE, "web")
    check_promises(MACHINE, world.get(MACHINE, "web"))
    assert world.condition(MACHINE, "web", "Running")["message"] == WORDS
    world.cluster.locked.clear()
    world.settle()
    world.finish_deletion()
    assert world.find(MACHINE, "web") is None
