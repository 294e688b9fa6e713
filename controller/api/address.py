"""VirtualMachineIPAddressClaim and VirtualMachineIPAddressLease."""

import ipaddress
import re
from enum import StrEnum
from typing import Any

from pydantic import Field

from controller.api.data_source import NamedInNamespace, check_name
from controller.api.model import ApiModel, Condition, FieldError

_LEASE = re.compile(r"ip-(\d{1,3})-(\d{1,3})-(\d{1,3})-(\d{1,3})")


class ReclaimPolicy(StrEnum):
    DELETE = "Delete"
    RETAIN = "Retain"


class ClaimPhase(StrEnum):
    PENDING = "Pending"
    BOUND = "Bound"
    LOST = "Lost"
    CONFLICT = "Conflict"


class LeasePhase(StrEnum):
    BOUND = "Bound"
    RELEASED = "Released"


class AddressClaimSpec(ApiModel):
    address: str | None = None
    lease_name: str | None = None
    reclaim_policy: ReclaimPolicy = ReclaimPolicy.DELETE

    @property
    def wanted(self) -> str | None:
        """The address that the claim insists on."""
        return self.address or (address_of(self.lease_name) if self.lease_name else None)


class AddressClaimStatus(ApiModel):
    phase: ClaimPhase | None = None
    address: str | None = None
    virtual_machine_name: str | None = None
    conflict_message: str | None = None
    conditions: list[Condition] = Field(default_factory=list)
    observed_generation: int | None = None


class AddressLeaseSpec(ApiModel):
    claim_ref: NamedInNamespace
    reclaim_policy: ReclaimPolicy = ReclaimPolicy.DELETE


class AddressLeaseStatus(ApiModel):
    phase: LeasePhase | None = None
    conditions: list[Condition] = Field(default_factory=list)
    observed_generation: int | None = None


def lease_name(address: str) -> str:
    """The name of an address's lease. One name for one address, so that two leases of it cannot be."""
    return "ip-" + str(ipaddress.IPv4Address(address)).replace(".", "-")


def address_of(lease: str) -> str | None:
    """The inverse; None if that is no name of a lease."""
    match = _LEASE.fullmatch(lease)
    if match is None:
        return None
    try:
        address = str(ipaddress.IPv4Address(".".join(match.groups())))
    except ValueError:
        return None
    return address


def check_address_claim(spec: AddressClaimSpec, obj: dict[str, Any], old: dict[str, Any] | None) -> list[FieldError]:
    """The rules of a claim: an IPv4 address, a lease that is the address's own, and only the policy may change."""
    errors = []
    if old is not None:
        for field in ("address", "leaseName"):
            if obj["spec"].get(field) != old["spec"].get(field):
                errors.append(FieldError(f"spec.{field}", "cannot be changed after creation; make another claim"))
        return errors
    if spec.address is not None and not _is_address(spec.address):
        errors.append(FieldError("spec.address", f"{spec.address!r} is no IPv4 address"))
    if spec.lease_name is not None:
        of_lease = address_of(spec.lease_name)
        if of_lease is None:
            errors.append(
                FieldError("spec.leaseName", f"{spec.lease_name!r} is no lease; they are called ip-192-0-2-7")
            )
        elif not errors and spec.address not in (None, of_lease):
            errors.append(FieldError("spec.leaseName", f"{spec.lease_name!r} is not the lease of {spec.address}"))
    return errors


def check_address_lease(spec: AddressLeaseSpec, obj: dict[str, Any], old: dict[str, Any] | None) -> list[FieldError]:
    """The rules of a lease: its name is its address."""
    if old is not None:
        return []
    errors = []
    name = str(obj["metadata"].get("name", ""))
    if address_of(name) is None:
        errors.append(FieldError("metadata.name", f"{name!r} names no address; leases are called ip-192-0-2-7"))
    for key, value in spec.claim_ref.write().items():
        errors += check_name(value, f"spec.claimRef.{key}")
    return errors


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
