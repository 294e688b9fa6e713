"""The address of a machine: its claim, made where none is named, and what the network of its pod is told."""

import ipaddress
from collections.abc import Mapping

from controller.addresses.claims import claim_name
from controller.addresses.ranges import AddressRanges
from controller.api.address import AddressClaimStatus, ClaimPhase
from controller.api.machine import MachineStatus
from controller.api.resource import ADDRESS_ANNOTATION, ADDRESS_CLAIM
from controller.machines.launch import Launch, NotReady
from controller.machines.visit import Flow, Visit
from controller.runtime.conditions import find_condition
from controller.runtime.index import Object
from controller.runtime.subject import Subject

ADDRESS_READY = "IPAddressReady"


class LeasedAddress:
    """The prerequisite: the machine's claim is bound, and the pod's annotations ask for its address.

    Without configured ranges, a machine that names no claim takes the address that its pod happens to get.
    """

    def __init__(self, ranges: AddressRanges, annotations: Mapping[str, str]) -> None:
        """`annotations` are for the cluster's network plugin; `{address}` in them stands for the address."""
        self._ranges = ranges
        self._annotations = annotations

    def __call__(self, visit: Visit, launch: Launch) -> NotReady | None:
        named = visit.spec.virtual_machine_ip_address_claim_name is not None
        if not named and not len(self._ranges):
            visit.status.ip_address_claim = None
            return None
        address = self._leased(visit, claim_name(visit.machine.obj), named=named)
        if isinstance(address, NotReady):
            visit.machine.condition(ADDRESS_READY, False, address.reason, address.message)
            return address
        visit.machine.condition(ADDRESS_READY, True, "Leased", f"the machine has {address}")
        launch.annotations |= {key: text.replace("{address}", address) for key, text in self._annotations.items()}
        launch.annotations[ADDRESS_ANNOTATION] = address
        launch.address = address if _is_loopback(address) else ""
        return None

    def _leased(self, visit: Visit, name: str, *, named: bool) -> str | NotReady:
        visit.status.ip_address_claim = name
        claim = visit.cluster.get(ADDRESS_CLAIM, name, visit.machine.namespace)
        if claim is None and named:
            message = f"waits for VirtualMachineIPAddressClaim {name!r}, which does not exist"
            return NotReady("IPAddressClaimNotFound", message)
        if claim is None:
            claim = visit.cluster.create(ADDRESS_CLAIM, _build_claim(name, visit.machine))
        status = AddressClaimStatus.read(claim.get("status"))
        if "deletionTimestamp" in claim["metadata"] or status.phase is not ClaimPhase.BOUND or status.address is None:
            ready = find_condition(status.conditions, "Ready")
            why = f": {ready.message}" if ready else ""
            return NotReady("IPAddressNotReady", f"waits for an address for claim {name!r}{why}")
        user = status.virtual_machine_name
        if user != visit.machine.name:
            why = f", which virtual machine {user!r} uses" if user else ""
            return NotReady("IPAddressClaimInUse", f"waits for claim {name!r}{why}")
        return status.address


def compare_address(visit: Visit) -> Flow:
    """The step: say so if the pod got another address than the leased one."""
    pod = visit.pod or {}
    wanted = (pod["metadata"].get("annotations") or {}).get(ADDRESS_ANNOTATION)
    has = (pod.get("status") or {}).get("podIP")
    if not wanted and has and visit.status.active_pod and visit.status.ip_address_claim:
        _show_moved(visit, visit.status.ip_address_claim, has)
    if wanted and has and wanted != has:
        message = f"the network gave the machine {has} instead of {wanted}: see controller.address_annotations"
        visit.machine.condition(ADDRESS_READY, False, "AddressNotAssigned", message)
    return Flow.ON


def _show_moved(visit: Visit, name: str, pod_address: str) -> None:
    """A machine that moves has two pods, which cannot have one address; its ports can, where all share loopback."""
    claim = visit.cluster.get(ADDRESS_CLAIM, name, visit.machine.namespace) or {}
    leased = AddressClaimStatus.read(claim.get("status")).address
    if leased is not None and _is_loopback(leased):
        visit.status.ip_address = leased
        visit.machine.condition(ADDRESS_READY, True, "Leased", f"the machine took {leased} along")
        return
    message = f"the machine has moved and is at {pod_address}; it takes its leased address again with its next start"
    visit.machine.condition(ADDRESS_READY, False, "AddressNotAssigned", message)


def _is_loopback(address: str) -> bool:
    return ipaddress.IPv4Address(address).is_loopback


def _build_claim(name: str, machine: Subject[MachineStatus]) -> Object:
    return {
        "apiVersion": ADDRESS_CLAIM.api_version,
        "kind": ADDRESS_CLAIM.kind,
        "metadata": {"name": name, "namespace": machine.namespace, "ownerReferences": [machine.owner_reference()]},
        "spec": {},
    }
