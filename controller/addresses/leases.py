"""VirtualMachineIPAddressLease: the lock on an address.

Its name is the address, so that it can be created once. Its finalizer is taken off only when no claim holds it any
more: from the moment a claim is bound until that claim is gone, nobody else can create it.
"""

from collections.abc import Iterator
from typing import Any

from controller.api.address import (
    AddressClaimStatus,
    AddressLeaseSpec,
    AddressLeaseStatus,
    LeasePhase,
    ReclaimPolicy,
    address_of,
    lease_name,
)
from controller.api.data_source import NamedInNamespace
from controller.api.resource import ADDRESS_CLAIM, ADDRESS_LEASE
from controller.runtime.conditions import Clock, utc_now
from controller.runtime.errors import ClusterError
from controller.runtime.index import Index, Key, Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import FINALIZER, Subject

READY = "Ready"


def build_lease(address: str, claim: NamedInNamespace, policy: ReclaimPolicy) -> Object:
    """The lease of an address for a claim."""
    return {
        "apiVersion": ADDRESS_LEASE.api_version,
        "kind": ADDRESS_LEASE.kind,
        "metadata": {"name": lease_name(address), "finalizers": [FINALIZER]},
        "spec": AddressLeaseSpec(claim_ref=claim, reclaim_policy=policy).write(),
    }


def claim_of(lease: Object) -> NamedInNamespace:
    """The claim that a lease is for."""
    return AddressLeaseSpec.read(lease["spec"]).claim_ref


def _by_claim(lease: Object) -> Iterator[Key]:
    ref = lease["spec"]["claimRef"]
    yield ref["namespace"], ref["name"]


LEASES_BY_CLAIM = Index(ADDRESS_LEASE, _by_claim)


def is_held(cluster: ClusterPort, lease: Object) -> bool:
    """Whether the lease's claim is there and has, or may be about to have, its address."""
    ref = claim_of(lease)
    claim = cluster.get(ADDRESS_CLAIM, ref.name, ref.namespace)
    if claim is None:
        return False
    has = AddressClaimStatus.read(claim.get("status")).address
    return has in (None, address_of(lease["metadata"]["name"]))


class LeaseReconciler:
    """Releases leases whose claims are gone: deletes them, or keeps them for the next claim of their namespace."""

    def __init__(self, cluster: ClusterPort, clock: Clock = utc_now) -> None:
        self._cluster = cluster
        self._clock = clock

    def reconcile(self, key: Key) -> float | None:
        obj = self._cluster.get(ADDRESS_LEASE, key[1])
        if obj is None:
            return None
        lease = Subject(self._cluster, ADDRESS_LEASE, obj, AddressLeaseStatus, self._clock)
        try:
            remains = self._bring_forward(lease, held=is_held(self._cluster, obj))
        except ClusterError as exc:
            lease.tell_trouble(READY, exc)
            raise
        if remains:
            lease.save()
        return None

    def _bring_forward(self, lease: Subject[AddressLeaseStatus], *, held: bool) -> bool:
        """Whether the lease remains, with a status that tells why."""
        lease.status.phase = LeasePhase.BOUND if held else LeasePhase.RELEASED
        if not lease.deleting:
            lease.hold()
        elif not held:
            lease.let_go()
            return False
        spec = AddressLeaseSpec.read(lease.obj["spec"])
        ref = f"{spec.claim_ref.namespace}/{spec.claim_ref.name}"
        if held:
            lease.condition(READY, True, "Bound", f"held by claim {ref}")
        elif spec.reclaim_policy is ReclaimPolicy.RETAIN:
            lease.condition(READY, True, "Released", f"kept for the next claim of namespace {spec.claim_ref.namespace}")
        else:
            # The finalizer goes in another pass, which asks again who holds the lease.
            self._cluster.delete(ADDRESS_LEASE, lease.name, uid=lease.uid)
            return False
        return True


def same_claim(lease: Object, namespace: str | None, name: str) -> bool:
    """Whether the lease is for the claim of that name."""
    ref: Any = claim_of(lease)
    return (ref.namespace, ref.name) == (namespace, name)
