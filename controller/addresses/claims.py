"""VirtualMachineIPAddressClaim: the wish for an address, and the machine that has it."""

from collections.abc import Iterator

from controller.addresses.leases import LEASES_BY_CLAIM, READY, build_lease, claim_of, is_held, same_claim
from controller.addresses.ranges import AddressRanges
from controller.api.address import (
    AddressClaimSpec,
    AddressClaimStatus,
    ClaimPhase,
    address_of,
    lease_name,
)
from controller.api.data_source import NamedInNamespace
from controller.api.resource import ADDRESS_CLAIM, ADDRESS_LEASE, MACHINE
from controller.disks.usage import pods_of_machine
from controller.runtime.conditions import Clock, utc_now
from controller.runtime.errors import ClusterError
from controller.runtime.index import Index, Key, Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import Subject

_POLL_S = 5.0


def claim_name(machine: Object) -> str:
    """The claim that a machine gets its address from."""
    name: str = machine["spec"].get("virtualMachineIPAddressClaimName") or machine["metadata"]["name"]
    return name


def _by_claim(machine: Object) -> Iterator[Key]:
    yield machine["metadata"]["namespace"], claim_name(machine)


MACHINES_BY_CLAIM = Index(MACHINE, _by_claim)


class ClaimReconciler:
    """Binds each claim to the lease of an address, for as long as the claim lives."""

    def __init__(self, cluster: ClusterPort, ranges: AddressRanges, clock: Clock = utc_now) -> None:
        self._cluster = cluster
        self._ranges = ranges
        self._clock = clock

    def reconcile(self, key: Key) -> float | None:
        obj = self._cluster.get(ADDRESS_CLAIM, key[1], key[0])
        if obj is None:
            return None
        claim = Subject(self._cluster, ADDRESS_CLAIM, obj, AddressClaimStatus, self._clock)
        claim.status.virtual_machine_name = self._user(claim)
        if claim.deleting and claim.finalized:
            return None
        try:
            again_s = self._remove(claim) if claim.deleting else None
            if not claim.deleting:
                self._bring_forward(claim)
        except ClusterError as exc:
            claim.status.phase = claim.status.phase or ClaimPhase.PENDING
            claim.tell_trouble(READY, exc)
            raise
        # One without our finalizer may be gone.
        if not claim.finalized:
            claim.save()
        return again_s

    def _bring_forward(self, claim: Subject[AddressClaimStatus]) -> None:
        claim.hold()
        spec = AddressClaimSpec.read(claim.obj["spec"])
        claim.status.conflict_message = None
        if claim.status.address is None:
            self._bind(claim, spec)
        else:
            self._keep(claim, spec, claim.status.address)

    def _user(self, claim: Subject[AddressClaimStatus]) -> str | None:
        """The machine that the claim is for: the one that had it, else the oldest of those that name it."""
        machines = self._cluster.find(MACHINES_BY_CLAIM, (claim.namespace, claim.name))
        machines.sort(key=lambda m: (m["metadata"].get("creationTimestamp", ""), m["metadata"]["name"]))
        names = [str(machine["metadata"]["name"]) for machine in machines]
        known = claim.status.virtual_machine_name
        return known if known in names else next(iter(names), None)

    def _bind(self, claim: Subject[AddressClaimStatus], spec: AddressClaimSpec) -> None:
        wanted = spec.wanted
        if wanted is not None and wanted not in self._ranges:
            message = f"{wanted} is not in the ranges for machines ({self._ranges}); see controller.machine_cidrs"
            self._pend(claim, "AddressOutOfRange", message)
        elif wanted is not None:
            self._take(claim, spec, wanted)
        else:
            self._choose(claim, spec)

    def _take(self, claim: Subject[AddressClaimStatus], spec: AddressClaimSpec, address: str) -> None:
        """The address that the claim insists on, or Conflict."""
        lease = self._cluster.get(ADDRESS_LEASE, lease_name(address))
        if lease is None:
            self._create(claim, spec, address)
        elif "deletionTimestamp" in lease["metadata"]:
            self._pend(claim, "LeaseTerminating", f"waits for the lease of {address} to go")
        elif same_claim(lease, claim.namespace, claim.name) or self._is_kept_for(lease, claim):
            self._adopt(claim, spec, lease)
        else:
            ref = claim_of(lease)
            claim.status.phase = ClaimPhase.CONFLICT
            claim.status.conflict_message = f"{address} belongs to claim {ref.name!r} of namespace {ref.namespace!r}"
            claim.condition(READY, False, "Conflict", claim.status.conflict_message)

    def _choose(self, claim: Subject[AddressClaimStatus], spec: AddressClaimSpec) -> None:
        """Any free address; the one that a claim of this name has, or had and retained, before all others."""
        for lease in self._cluster.find(LEASES_BY_CLAIM, (claim.namespace, claim.name)):
            usable = "deletionTimestamp" not in lease["metadata"] and address_of(lease["metadata"]["name"])
            if usable and usable in self._ranges:
                self._adopt(claim, spec, lease)
                return
        address = next(filter(self._is_free, self._ranges.candidates(claim.uid)), None)
        if address is not None:
            self._create(claim, spec, address)
        elif len(self._ranges):
            self._pend(claim, "NoFreeAddress", f"no address is free in {self._ranges}; widen controller.machine_cidrs")
        else:
            self._pend(claim, "NoAddressRange", "no range of addresses is configured: controller.machine_cidrs")

    def _is_free(self, address: str) -> bool:
        return self._cluster.get(ADDRESS_LEASE, lease_name(address)) is None

    def _create(self, claim: Subject[AddressClaimStatus], spec: AddressClaimSpec, address: str) -> None:
        # AlreadyExistsError: somebody was faster, and another pass sees what there is then.
        self._cluster.create(ADDRESS_LEASE, build_lease(address, self._ref(claim), spec.reclaim_policy))
        self._bound(claim, address)

    def _adopt(self, claim: Subject[AddressClaimStatus], spec: AddressClaimSpec, lease: Object) -> None:
        """Make a lease that is there this claim's; a write, so that two who want it cannot both succeed."""
        fresh = build_lease(address_of(lease["metadata"]["name"]) or "", self._ref(claim), spec.reclaim_policy)["spec"]
        if lease["spec"] != fresh:
            self._cluster.update(ADDRESS_LEASE, {**lease, "spec": fresh})
        self._bound(claim, address_of(lease["metadata"]["name"]) or "")

    def _keep(self, claim: Subject[AddressClaimStatus], spec: AddressClaimSpec, address: str) -> None:
        """Look after the lease of a bound claim; one that somebody removed by force is made again while it can be."""
        lease = self._cluster.get(ADDRESS_LEASE, lease_name(address))
        if lease is None and address in self._ranges:
            self._create(claim, spec, address)
        elif lease is not None and same_claim(lease, claim.namespace, claim.name):
            self._adopt(claim, spec, lease)
        else:
            now = f"belongs to claim {claim_of(lease).name!r}" if lease else f"is not in the ranges ({self._ranges})"
            claim.status.phase = ClaimPhase.LOST
            claim.condition(READY, False, "LeaseLost", f"the lease of {address} was removed, and the address {now}")

    def _bound(self, claim: Subject[AddressClaimStatus], address: str) -> None:
        claim.status.address = address
        claim.status.phase = ClaimPhase.BOUND
        claim.condition(READY, True, "Bound", f"{address} is leased")

    def _pend(self, claim: Subject[AddressClaimStatus], reason: str, message: str) -> None:
        claim.status.phase = ClaimPhase.PENDING
        claim.condition(READY, False, reason, message)

    def _is_kept_for(self, lease: Object, claim: Subject[AddressClaimStatus]) -> bool:
        """Whether a retained lease of the claim's namespace is free to be taken over."""
        return claim_of(lease).namespace == claim.namespace and not is_held(self._cluster, lease)

    def _runs(self, machine: str, namespace: str | None) -> bool:
        return bool(pods_of_machine(self._cluster, machine, namespace))

    def _ref(self, claim: Subject[AddressClaimStatus]) -> NamedInNamespace:
        return NamedInNamespace(name=claim.name, namespace=claim.namespace or "")

    def _remove(self, claim: Subject[AddressClaimStatus]) -> float | None:
        """The lease is released when the claim is gone; so the claim stays while a machine runs with its address."""
        user = claim.status.virtual_machine_name
        if user is not None and self._runs(user, claim.namespace):
            claim.condition(READY, False, "InUse", f"waits for virtual machine {user!r} to stop")
            return _POLL_S
        claim.let_go()
        return None
