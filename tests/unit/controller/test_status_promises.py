"""What the status of every kind promises: `World.reconcile` looks at it after each pass of any reconciler's test."""

from typing import Any

import pytest

from controller.api.kinds import KINDS
from controller.api.resource import (
    ADDRESS_CLAIM,
    ADDRESS_LEASE,
    ATTACHMENT,
    CLUSTER_IMAGE,
    CPU_MODEL,
    DISK,
    IMAGE,
    MACHINE,
    NODE,
    OPERATION,
    POD,
    PVC,
    SECRET,
    Resource,
)
from controller.cpumodels.nodes import CAPABILITY_ANNOTATION
from controller.launcher.capability import Capability
from controller.runtime.errors import RefusedError, error_from
from dvcr.errors import RegistryError
from tests.unit.controller.test_reconcile_story import DISK_SPEC, IMAGE_SPEC, MACHINE_SPEC, ready_image
from tests.unit.controller.world import World, check_promises

BLOCK = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}
SPECS: dict[Resource, dict[str, Any]] = {
    CLUSTER_IMAGE: IMAGE_SPEC,
    IMAGE: IMAGE_SPEC,
    DISK: DISK_SPEC,
    MACHINE: MACHINE_SPEC,
    OPERATION: {"type": "Restart", "virtualMachineName": "web"},
    ATTACHMENT: {"virtualMachineName": "web", "blockDevice": BLOCK},
    CPU_MODEL: {"type": "Host"},
    ADDRESS_CLAIM: {},
    ADDRESS_LEASE: {"claimRef": {"name": "none", "namespace": "default"}, "reclaimPolicy": "Retain"},
}
ONGOING = (IMAGE, CLUSTER_IMAGE, DISK, MACHINE, ATTACHMENT, CPU_MODEL, ADDRESS_CLAIM)
"""Kinds whose first status, with nothing else there, says that something is waited for."""
QUOTA = {
    "kind": "Status",
    "code": 403,
    "reason": "Forbidden",
    "message": 'persistentvolumeclaims "vmd-root" is forbidden: exceeded quota: small, requested: '
    "persistentvolumeclaims=1, used: persistentvolumeclaims=0, limited: persistentvolumeclaims=0",
}


def exceeded() -> RefusedError:
    error = error_from(403, QUOTA, "POST")
    assert isinstance(error, RefusedError)
    return error


def test_these_are_all_kinds() -> None:
    assert set(SPECS) == {kind.resource for kind in KINDS}


@pytest.mark.parametrize("resource", SPECS, ids=lambda resource: resource.kind)
def test_a_status_is_about_the_generation_that_the_last_pass_saw(resource: Resource) -> None:
    world = World(cidrs=("10.0.0.0/24",))
    name = "ip-10-0-0-9" if resource == ADDRESS_LEASE else "it"
    made = world.apply(resource, name, SPECS[resource])
    check_promises(resource, made)
    if resource in ONGOING:
        [first] = [c for c in made["status"]["conditions"] if c["type"] in ("Ready", "Running", "Attached")]
        assert first["status"] == ("True" if resource == ADDRESS_CLAIM else "False")
    # As after a change of something that matters to no condition.
    made["metadata"]["generation"] += 6
    world.cluster.restore(resource, made)
    with pytest.raises(AssertionError):
        check_promises(resource, made)
    world.settle()
    check_promises(resource, world.get(resource, name))
    assert world.status(resource, name)["observedGeneration"] == 7


def test_a_claim_that_the_quota_forbids_is_told_of_and_made_once_it_may_be() -> None:
    world = World()
    ready_image(world)
    world.cluster.refused[PVC] = exceeded()
    with pytest.raises(RefusedError) as caught:
        world.apply(DISK, "root", DISK_SPEC)
    assert caught.value.retryable
    disk = world.get(DISK, "root")
    check_promises(DISK, disk)
    assert disk["status"]["phase"] == "Pending"
    condition = world.condition(DISK, "root", "Ready")
    assert (condition["reason"], condition["message"]) == ("Forbidden", exceeded().message)
    world.cluster.refused.clear()
    world.settle()
    world.bind("vmd-root")
    assert world.status(DISK, "root")["phase"] == "Ready"


@pytest.mark.parametrize("resource", [POD, SECRET], ids=lambda resource: resource.kind)
def test_a_machine_that_the_quota_forbids_is_told_of_and_starts_once_it_may(resource: Resource) -> None:
    world = World()
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    world.bind("vmd-root")
    world.authority.renewal()  # which makes a Secret too
    world.cluster.refused[resource] = exceeded()
    with pytest.raises(RefusedError):
        world.apply(MACHINE, "web", MACHINE_SPEC)
    check_promises(MACHINE, world.get(MACHINE, "web"))
    assert world.status(MACHINE, "web")["phase"] == "Pending"
    condition = world.condition(MACHINE, "web", "Running")
    assert condition["reason"] == "Forbidden"
    assert condition["message"] == f"waits for what the cluster refuses: {exceeded().message}"
    world.cluster.refused.clear()
    world.settle()
    world.run_pod()
    assert world.status(MACHINE, "web")["phase"] == "Running"


def test_a_machine_whose_image_cannot_be_looked_for_says_so() -> None:
    world = World()
    ready_image(world)
    world.registry.error = RegistryError("the registry does not answer", code="UNAVAILABLE", status=503)
    device = {"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": "debian"}}
    check_promises(MACHINE, world.apply(MACHINE, "web", MACHINE_SPEC | {"blockDevices": [device]}))
    condition = world.condition(MACHINE, "web", "Running")
    assert (condition["reason"], condition["message"]) == (world.registry.error.reason, "the registry does not answer")


def test_an_address_that_the_cluster_refuses_is_told_of() -> None:
    world = World(cidrs=("10.0.0.0/24",))
    world.cluster.refused[ADDRESS_LEASE] = exceeded()
    with pytest.raises(RefusedError):
        world.apply(ADDRESS_CLAIM, "mine", {})
    check_promises(ADDRESS_CLAIM, world.get(ADDRESS_CLAIM, "mine"))
    assert world.condition(ADDRESS_CLAIM, "mine", "Ready")["message"] == exceeded().message
    world.cluster.refused.clear()
    world.settle()
    assert world.status(ADDRESS_CLAIM, "mine")["phase"] == "Bound"


def test_a_node_that_may_not_be_labelled_is_told_of() -> None:
    world = World()
    told = Capability.of("tcg", ["sse"], {"Nehalem": ["sse"]}).model_dump_json()
    node = {"metadata": {"name": "node", "annotations": {CAPABILITY_ANNOTATION: told}}}
    world.cluster.create(NODE, node)
    world.cluster.refusals[NODE] = exceeded()
    with pytest.raises(RefusedError):
        world.apply(CPU_MODEL, "host", {"type": "Host"})
    told_of = [each for each in world.cluster.list(CPU_MODEL) if "status" in each]
    assert {each["status"]["conditions"][0]["message"] for each in told_of} == {exceeded().message}
