"""Which claims, leases and machines a change of one of them concerns."""

from collections.abc import Iterable, Iterator

from controller.addresses.claims import MACHINES_BY_CLAIM, claim_name
from controller.addresses.leases import LEASES_BY_CLAIM, claim_of
from controller.api.address import ClaimPhase, lease_name
from controller.api.resource import ADDRESS_CLAIM, ADDRESS_LEASE, MACHINE
from controller.runtime.index import Index, Key, Object, key_of
from controller.runtime.port import ClusterReader


def machines_of_claim(key: Key, cluster: ClusterReader) -> Iterable[Key]:
    """The machines that get their address from the claim."""
    return [key_of(machine) for machine in cluster.find(MACHINES_BY_CLAIM, key)]


def claims_of_machine(key: Key, cluster: ClusterReader) -> Iterable[Key]:
    """The machine's claim, and any that the machine had before it changed or was deleted."""
    machine = cluster.get(MACHINE, key[1], key[0])
    if machine is not None:
        yield key[0], claim_name(machine)
    yield from (key_of(claim) for claim in cluster.find(_CLAIMS_BY_MACHINE, key))


def claims_of_lease(key: Key, cluster: ClusterReader) -> Iterable[Key]:
    """The claim that the lease is for, the one that has its address, and all that wait for an address."""
    lease = cluster.get(ADDRESS_LEASE, key[1])
    if lease is not None:
        yield claim_of(lease).namespace, claim_of(lease).name
    for value in (key[1], _WAITING):
        yield from (key_of(claim) for claim in cluster.find(_CLAIMS_BY_LEASE, value))


def leases_of_claim(key: Key, cluster: ClusterReader) -> Iterable[Key]:
    """The leases that are for the claim."""
    return [key_of(lease) for lease in cluster.find(LEASES_BY_CLAIM, key)]


def _by_machine(claim: Object) -> Iterator[Key]:
    name = (claim.get("status") or {}).get("virtualMachineName")
    if name is not None:
        yield claim["metadata"]["namespace"], name


def _by_lease(claim: Object) -> Iterator[str]:
    status = claim.get("status") or {}
    if status.get("phase") != ClaimPhase.BOUND:
        yield _WAITING
    if status.get("address") is not None:
        yield lease_name(status["address"])


_WAITING = ""
"""No lease is called so."""
_CLAIMS_BY_MACHINE = Index(ADDRESS_CLAIM, _by_machine)
_CLAIMS_BY_LEASE = Index(ADDRESS_CLAIM, _by_lease)
