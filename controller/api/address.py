"""VirtualMachineIPAddressClaim and VirtualMachineIPAddressLease."""

import ipaddress
import re
from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from controller.api.data_source import NamedInNamespace
from controller.api.model import ApiModel, ChangeRule, Condition, ModelRule
from controller.api.rules import Rule, fixed
from controller.api.text import LEASE_NAME, Address, LeaseName


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
    rules: ClassVar[tuple[ModelRule, ...]] = (
        Rule(
            "!has(self.address) || !has(self.leaseName) || self.leaseName == 'ip-' + self.address.replace('.', '-')",
            lambda spec: None in (spec.address, spec.lease_name) or address_of(spec.lease_name) == spec.address,
            "must be the lease of spec.address",
            "leaseName",
        ),
    )
    changes: ClassVar[tuple[ChangeRule, ...]] = fixed("address", "leaseName", hint="make another claim")
    address: Address | None = None
    lease_name: LeaseName | None = None
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
    return lease.removeprefix("ip-").replace("-", ".") if re.fullmatch(LEASE_NAME, lease) else None


LEASE_RULES = (
    Rule(
        f'self.metadata.name.matches("^{LEASE_NAME}$")',
        lambda lease: address_of(lease["metadata"]["name"]) is not None,
        "must name an address; leases are called ip-192-0-2-7",
        "metadata.name",
    ),
)
"""Of the whole lease."""
