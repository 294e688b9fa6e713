"""Claims, leases and the machines that use them."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controller.addresses.claims import ClaimReconciler
from controller.addresses.leases import LeaseReconciler
from controller.addresses.ranges import AddressRanges
from controller.api.resource import (
    ADDRESS_ANNOTATION,
    ADDRESS_CLAIM,
    ADDRESS_LEASE,
    GROUP,
    MACHINE,
    POD,
    SECRET,
    VERSION,
)
from controller.launcher.spec import MigrationState
from controller.runtime.errors import AlreadyExistsError, ClusterError, ConflictError
from controller.runtime.index import Object
from tests.support.memory_cluster import MemoryCluster
from tests.unit.controller.test_reconcile_migrations import RUNNING, begin, moving_world, run_target, sends
from tests.unit.controller.test_reconcile_story import MACHINE_SPEC, running_machine
from tests.unit.controller.world import NOW, World

CIDR = "127.65.0.0/29"


def world_with_addresses(cidr: str = CIDR) -> World:
    return World(cidrs=(cidr,))


def claimed(world: World, name: str, **spec: Any) -> dict[str, Any]:
    world.apply(ADDRESS_CLAIM, name, spec)
    return world.status(ADDRESS_CLAIM, name)


def leases(world: World) -> dict[str, str]:
    return {
        lease["metadata"]["name"]: f"{lease['spec']['claimRef']['name']} {lease['status']['phase']}"
        for lease in world.cluster.list(ADDRESS_LEASE)
    }


def test_a_claim_is_bound_to_a_free_address_or_to_the_one_that_it_wants() -> None:
    world = world_with_addresses()
    status = claimed(world, "any")
    assert status["phase"] == "Bound"
    assert status["address"] in AddressRanges([CIDR])
    wanted, other = [one for one in AddressRanges([CIDR]).candidates("") if one != status["address"]][:2]
    assert claimed(world, "this", address=wanted)["address"] == wanted
    assert claimed(world, "that", leaseName="ip-" + other.replace(".", "-"))["address"] == other
    assert set(leases(world).values()) == {"any Bound", "this Bound", "that Bound"}


def test_a_taken_address_is_a_conflict_until_it_is_free() -> None:
    world = world_with_addresses()
    claimed(world, "first", address="127.65.0.3")
    status = claimed(world, "second", address="127.65.0.3")
    assert (status["phase"], status["conflictMessage"]) == (
        "Conflict", "127.65.0.3 belongs to claim 'first' of namespace 'default'",
    )  # fmt: skip
    world.delete(ADDRESS_CLAIM, "first")
    status = world.status(ADDRESS_CLAIM, "second")
    assert (status["phase"], status["address"]) == ("Bound", "127.65.0.3")
    assert "conflictMessage" not in status


@pytest.mark.parametrize(
    ("cidrs", "spec", "reason"),
    [
        ((CIDR,), {"address": "10.0.0.1"}, "AddressOutOfRange"),
        ((CIDR,), {"address": "127.65.0.0"}, "AddressOutOfRange"),
        (("127.65.0.0/32",), {}, "NoAddressRange"),
        ((), {}, "NoAddressRange"),
    ],
)
def test_what_a_claim_waits_for(cidrs: tuple[str, ...], spec: dict[str, Any], reason: str) -> None:
    world = World(cidrs=cidrs)
    assert claimed(world, "x", **spec)["phase"] == "Pending"
    assert world.condition(ADDRESS_CLAIM, "x", "Ready")["reason"] == reason


def test_an_exhausted_range_serves_the_next_when_one_is_given_back() -> None:
    world = world_with_addresses("127.65.0.0/30")
    claimed(world, "a")
    claimed(world, "b")
    assert claimed(world, "c")["phase"] == "Pending"
    assert world.condition(ADDRESS_CLAIM, "c", "Ready")["reason"] == "NoFreeAddress"
    world.delete(ADDRESS_CLAIM, "a")
    assert world.status(ADDRESS_CLAIM, "c")["phase"] == "Bound"


def test_retained_addresses_wait_for_their_namespace() -> None:
    world = world_with_addresses()
    address = claimed(world, "web", reclaimPolicy="Retain")["address"]
    world.delete(ADDRESS_CLAIM, "web")
    lease = "ip-" + address.replace(".", "-")
    assert leases(world) == {lease: "web Released"}

    stranger = {"apiVersion": f"{GROUP}/{VERSION}", "kind": ADDRESS_CLAIM.kind, "spec": {"address": address}}
    world.cluster.create(ADDRESS_CLAIM, {**stranger, "metadata": {"name": "web", "namespace": "elsewhere"}})
    world.settle()
    found = world.cluster.get(ADDRESS_CLAIM, "web", "elsewhere")
    assert found is not None
    assert found["status"]["phase"] == "Conflict"

    assert claimed(world, "other", address=address)["phase"] == "Bound"
    assert leases(world) == {lease: "other Bound"}
    world.change(ADDRESS_CLAIM, "other", {"reclaimPolicy": "Delete"})
    world.delete(ADDRESS_CLAIM, "other")
    assert leases(world) == {lease: "web Bound"}  # the stranger's turn


def test_a_claim_of_the_same_name_gets_its_retained_address_back() -> None:
    world = world_with_addresses()
    address = claimed(world, "web", reclaimPolicy="Retain")["address"]
    world.delete(ADDRESS_CLAIM, "web")
    assert claimed(world, "web")["address"] == address


def test_a_lease_that_is_in_use_cannot_be_deleted_and_a_released_one_can() -> None:
    world = world_with_addresses()
    address = claimed(world, "web", reclaimPolicy="Retain")["address"]
    lease = "ip-" + address.replace(".", "-")
    assert world.delete(ADDRESS_LEASE, lease) is not None
    assert world.status(ADDRESS_CLAIM, "web")["phase"] == "Bound"
    world.delete(ADDRESS_CLAIM, "web")
    assert world.find(ADDRESS_LEASE, lease) is None


def remove_by_force(world: World, lease: str) -> None:
    world.cluster.patch(ADDRESS_LEASE, lease, {"metadata": {"finalizers": []}})
    world.cluster.delete(ADDRESS_LEASE, lease)


def test_a_lease_removed_by_force_is_made_again() -> None:
    world = world_with_addresses()
    claimed(world, "web", address="127.65.0.2")
    remove_by_force(world, "ip-127-65-0-2")
    world.settle()
    assert leases(world) == {"ip-127-65-0-2": "web Bound"}
    assert world.status(ADDRESS_CLAIM, "web")["phase"] == "Bound"


def test_a_claim_whose_address_somebody_else_got_is_lost() -> None:
    world = world_with_addresses()
    claimed(world, "web", address="127.65.0.2")
    remove_by_force(world, "ip-127-65-0-2")
    thief = {"claimRef": {"name": "thief", "namespace": "default"}, "reclaimPolicy": "Retain"}
    world.apply(ADDRESS_LEASE, "ip-127-65-0-2", thief)
    assert world.status(ADDRESS_CLAIM, "web")["phase"] == "Lost"
    assert "'thief'" in world.condition(ADDRESS_CLAIM, "web", "Ready")["message"]

    world.delete(ADDRESS_LEASE, "ip-127-65-0-2")
    assert world.status(ADDRESS_CLAIM, "web")["phase"] == "Bound"


def test_a_machine_gets_a_claim_of_its_name_and_its_pod_the_address() -> None:
    world = world_with_addresses()
    running_machine(world)
    claim = world.get(ADDRESS_CLAIM, "web")
    address = claim["status"]["address"]
    assert (claim["status"]["phase"], claim["status"]["virtualMachineName"]) == ("Bound", "web")
    assert claim["metadata"]["ownerReferences"][0]["uid"] == world.get(MACHINE, "web")["metadata"]["uid"]
    annotations = world.get(POD, "vm-web")["metadata"]["annotations"]
    assert annotations[ADDRESS_ANNOTATION] == address
    assert annotations["example.com/ip"] == f"[{address}]"
    assert world.status(MACHINE, "web")["ipAddressClaim"] == "web"
    # The pod of this test got 127.64.0.2.
    condition = world.condition(MACHINE, "web", "IPAddressReady")
    assert (condition["status"], condition["reason"]) == ("False", "AddressNotAssigned")


@pytest.mark.parametrize(("cidr", "told"), [(CIDR, True), ("10.65.0.0/29", False)])
def test_a_launcher_is_told_a_loopback_address_which_it_can_take_along(cidr: str, told: bool) -> None:
    world = world_with_addresses(cidr)
    running_machine(world)
    spec = json.loads(base64.b64decode(world.get(SECRET, "vm-web")["data"]["machine.json"]))
    assert spec["address"] == (world.status(ADDRESS_CLAIM, "web")["address"] if told else "")


@pytest.mark.parametrize(("cidr", "kept"), [(CIDR, True), ("10.65.0.0/29", False)])
def test_a_machine_that_moves_takes_a_loopback_address_along(cidr: str, kept: bool) -> None:
    world = moving_world(cidr)
    name = begin(world)
    assert ADDRESS_ANNOTATION not in world.get(POD, name)["metadata"]["annotations"]
    sends(world, MigrationState.DONE)
    world.launchers.of_pod[name] = RUNNING
    run_target(world, name)
    leased = world.status(ADDRESS_CLAIM, "web")["address"]
    status = world.status(MACHINE, "web")
    assert status["activePod"] == name
    assert status["ipAddress"] == (leased if kept else "127.65.0.2")
    condition = world.condition(MACHINE, "web", "IPAddressReady")
    assert condition["reason"] == ("Leased" if kept else "AddressNotAssigned")


def test_a_deleted_machine_gives_its_address_back_only_when_its_pod_is_gone() -> None:
    world = world_with_addresses()
    running_machine(world)
    world.delete(MACHINE, "web")
    world.delete(ADDRESS_CLAIM, "web")
    assert world.condition(ADDRESS_CLAIM, "web", "Ready")["reason"] == "InUse"
    assert len(leases(world)) == 1
    world.finish_deletion()
    world.settle()
    assert world.find(MACHINE, "web") is None
    assert world.find(ADDRESS_CLAIM, "web") is None
    assert leases(world) == {}


def test_a_machine_waits_for_the_claim_that_it_names() -> None:
    world = world_with_addresses()
    running_machine(world, virtualMachineIPAddressClaimName="fixed")
    assert world.find(POD, "vm-web") is None
    assert world.condition(MACHINE, "web", "IPAddressReady")["reason"] == "IPAddressClaimNotFound"
    claimed(world, "fixed", address="10.0.0.1")
    condition = world.condition(MACHINE, "web", "IPAddressReady")
    assert condition["reason"] == "IPAddressNotReady"
    assert "controller.machine_cidrs" in condition["message"]
    world.delete(ADDRESS_CLAIM, "fixed")
    claimed(world, "fixed", address="127.65.0.5")
    world.settle()
    assert world.get(POD, "vm-web")["metadata"]["annotations"][ADDRESS_ANNOTATION] == "127.65.0.5"
    assert world.status(MACHINE, "web")["ipAddressClaim"] == "fixed"


def test_one_claim_serves_one_machine() -> None:
    world = world_with_addresses()
    running_machine(world, virtualMachineIPAddressClaimName="fixed")
    claimed(world, "fixed")
    world.run_pod()
    spec = {**MACHINE_SPEC, "virtualMachineIPAddressClaimName": "fixed", "blockDevices": [
        {"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": "iso"}}]}  # fmt: skip
    world.apply(MACHINE, "other", spec)
    assert world.status(ADDRESS_CLAIM, "fixed")["virtualMachineName"] == "web"
    assert world.find(POD, "vm-other") is None


def test_without_ranges_a_machine_takes_what_its_pod_gets() -> None:
    world = World()
    running_machine(world)
    assert world.find(ADDRESS_CLAIM, "web") is None
    status = world.status(MACHINE, "web")
    assert (status["phase"], status["ipAddress"]) == ("Running", "127.64.0.2")
    assert "ipAddressClaim" not in status


class FlakyCluster(MemoryCluster):
    """Some writes do not happen, happen without the writer ever knowing, or come after something else happened."""

    def __init__(self) -> None:
        super().__init__()
        self.fate: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def _fateful(self, write: Any) -> Any:
        fate = self.fate.pop() if self.fate else ""
        if fate == "lost":
            raise ClusterError("the request was lost", status=0)
        if fate == "late":
            self.meanwhile()
        result = write()
        if fate == "unheard":
            raise ClusterError("the answer was lost", status=0)
        return result

    def create(self, resource: Any, obj: Object) -> Object:
        created: Object = self._fateful(lambda: super(FlakyCluster, self).create(resource, obj))
        return created

    def update(self, resource: Any, obj: Object) -> Object:
        updated: Object = self._fateful(lambda: super(FlakyCluster, self).update(resource, obj))
        return updated

    def update_status(self, resource: Any, obj: Object) -> Object:
        updated: Object = self._fateful(lambda: super(FlakyCluster, self).update_status(resource, obj))
        return updated

    def delete(self, *args: Any, **kwargs: Any) -> None:
        self._fateful(lambda: super(FlakyCluster, self).delete(*args, **kwargs))


FATES = st.lists(st.sampled_from(["", "", "lost", "unheard", "late"]), max_size=4)
NAMES = st.sampled_from(["a", "b", "c", "d"])
SPACES = st.sampled_from(["one", "two"])


class Addresses(RuleBasedStateMachine):
    """Claims come and go while reconcilers fail and meet in the middle: no address ever has two bound claims."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = FlakyCluster()
        ranges = AddressRanges(["127.65.0.0/30", "127.66.0.0/31"])
        self.claims = ClaimReconciler(self.cluster, ranges, lambda: NOW)
        self.leases = LeaseReconciler(self.cluster, lambda: NOW)

    @rule(
        space=SPACES,
        name=NAMES,
        wanted=st.sampled_from([None, "127.65.0.1", "127.65.0.2"]),
        policy=st.sampled_from(["Delete", "Retain"]),
    )
    def claim(self, space: str, name: str, wanted: str | None, policy: str) -> None:
        self.cluster.fate = []
        self._claim(space, name, wanted, policy)

    def _claim(self, space: str, name: str, wanted: str | None, policy: str) -> None:
        spec: dict[str, Any] = {"reclaimPolicy": policy} | ({"address": wanted} if wanted else {})
        obj = {"apiVersion": f"{GROUP}/{VERSION}", "kind": ADDRESS_CLAIM.kind, "spec": spec}
        if self.cluster.get(ADDRESS_CLAIM, name, space) is None:
            self.cluster.create(ADDRESS_CLAIM, {**obj, "metadata": {"name": name, "namespace": space}})

    @rule(space=SPACES, name=NAMES)
    def give_up(self, space: str, name: str) -> None:
        self.cluster.fate = []
        self.cluster.delete(ADDRESS_CLAIM, name, space)

    @precondition(lambda self: self.cluster.list(ADDRESS_LEASE))
    @rule(data=st.data())
    def delete_lease(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.cluster.list(ADDRESS_LEASE)))
        self.cluster.fate = []
        self.cluster.delete(ADDRESS_LEASE, lease["metadata"]["name"])

    @rule(space=SPACES, name=NAMES, fate=FATES, other=st.tuples(SPACES, NAMES), anew=st.booleans())
    def reconcile_claim(self, space: str, name: str, fate: list[str], other: tuple[str, str], anew: bool) -> None:
        self.cluster.fate = fate
        self.cluster.meanwhile = lambda: self._meanwhile(other, anew)
        self._try(self.claims, (space, name))

    @precondition(lambda self: self.cluster.list(ADDRESS_LEASE))
    @rule(data=st.data(), fate=FATES, other=st.tuples(SPACES, NAMES), anew=st.booleans())
    def reconcile_lease(self, data: st.DataObject, fate: list[str], other: tuple[str, str], anew: bool) -> None:
        lease = data.draw(st.sampled_from(self.cluster.list(ADDRESS_LEASE)))
        self.cluster.fate = fate
        self.cluster.meanwhile = lambda: self._meanwhile(other, anew)
        self._try(self.leases, ("", lease["metadata"]["name"]))

    def _meanwhile(self, key: tuple[str, str], anew: bool) -> None:
        """Another worker's passes, perhaps over a claim that was deleted and made again."""
        fate, self.cluster.fate = self.cluster.fate, []
        if anew:
            self.cluster.delete(ADDRESS_CLAIM, key[1], key[0])
            self._try(self.claims, key)
            self._claim(*key, None, "Delete")
        self._try(self.claims, key)
        for lease in self.cluster.list(ADDRESS_LEASE):
            self._try(self.leases, ("", lease["metadata"]["name"]))
        self.cluster.fate = fate

    def _try(self, reconciler: Any, key: tuple[str, str]) -> None:
        try:
            reconciler.reconcile(key)
        except (ClusterError, ConflictError, AlreadyExistsError):
            return

    @invariant()
    def no_address_is_given_twice(self) -> None:
        bound = [
            (claim["status"]["address"], claim["metadata"]["namespace"], claim["metadata"]["name"])
            for claim in self.cluster.list(ADDRESS_CLAIM)
            if (claim.get("status") or {}).get("phase") == "Bound"
        ]
        assert len({address for address, *_ in bound}) == len(bound), bound
        for address, namespace, name in bound:
            lease = self.cluster.get(ADDRESS_LEASE, "ip-" + address.replace(".", "-"))
            assert lease is not None, f"{address} of {namespace}/{name} has no lease"
            assert lease["spec"]["claimRef"] == {"name": name, "namespace": namespace}, json.dumps(lease)


TestNeverTwice = Addresses.TestCase
TestNeverTwice.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
