"""Claims and leases of addresses: their rules and their names."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.addresses.ranges import AddressRanges
from controller.api.address import address_of, lease_name
from controller.api.kinds import admit
from controller.api.resource import ADDRESS_CLAIM, ADDRESS_LEASE, MACHINE, Resource


def errors(resource: Resource, spec: dict[str, Any], old: dict[str, Any] | None = None, name: str = "x") -> list[str]:
    def of(spec: dict[str, Any]) -> dict[str, Any]:
        metadata = {"name": name}
        return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": spec}

    return [f"{e.field}: {e.message}" for e in admit(of(spec), of(old) if old is not None else None)]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"address": "10.0.0.7"},
        {"leaseName": "ip-10-0-0-7"},
        {"address": "10.0.0.7", "leaseName": "ip-10-0-0-7", "reclaimPolicy": "Retain"},
    ],
)
def test_good_claims(spec: dict[str, Any]) -> None:
    assert errors(ADDRESS_CLAIM, spec) == []


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"address": "10.0.0"}, "spec.address"),
        ({"address": "10.0.0.256"}, "spec.address"),
        ({"address": "fd00::1"}, "spec.address"),
        ({"address": ""}, "spec.address"),
        ({"leaseName": "10.0.0.7"}, "spec.leaseName"),
        ({"leaseName": "ip-10-0-0-300"}, "spec.leaseName"),
        ({"address": "10.0.0.7", "leaseName": "ip-10-0-0-8"}, "spec.leaseName"),
        ({"reclaimPolicy": "Keep"}, "spec.reclaimPolicy"),
    ],
)
def test_bad_claims(spec: dict[str, Any], field: str) -> None:
    (error,) = errors(ADDRESS_CLAIM, spec)
    assert error.startswith(f"{field}: ")


def test_only_the_policy_of_a_claim_may_change() -> None:
    assert errors(ADDRESS_CLAIM, {"reclaimPolicy": "Retain"}, {"reclaimPolicy": "Delete"}) == []
    for field, value in (("address", "10.0.0.8"), ("leaseName", "ip-10-0-0-8")):
        (error,) = errors(ADDRESS_CLAIM, {field: value}, {})
        assert error.startswith(f"spec.{field}: cannot be changed")


def test_a_lease_is_called_after_its_address() -> None:
    spec = {"claimRef": {"name": "web", "namespace": "default"}}
    assert errors(ADDRESS_LEASE, spec, name="ip-10-0-0-7") == []
    (error,) = errors(ADDRESS_LEASE, spec, name="mine")
    assert error.startswith("metadata.name: ")
    (error,) = errors(ADDRESS_LEASE, {"claimRef": {"name": "a b", "namespace": "default"}}, name="ip-10-0-0-7")
    assert error.startswith("spec.claimRef.name: ")


@given(address=st.ip_addresses(v=4).map(str))
def test_names_of_leases_and_addresses_are_one_to_one(address: str) -> None:
    assert address_of(lease_name(address)) == address


@pytest.mark.parametrize("name", ["ip-1-2-3", "ip-01-2-3-4", "ip-1-2-3-4-5", "ip-1-2-3-999", "IP-1-2-3-4", ""])
def test_what_is_no_name_of_a_lease(name: str) -> None:
    assert address_of(name) is None


CIDRS = st.lists(
    st.builds(lambda second, bits: f"10.{second}.0.0/{bits}", st.integers(0, 255), st.integers(26, 32)),
    max_size=3,
    unique_by=lambda cidr: cidr.split("/")[0],
)


@given(cidrs=CIDRS, seed=st.text(max_size=5))
def test_candidates_are_all_addresses_of_the_ranges_each_once(cidrs: list[str], seed: str) -> None:
    ranges = AddressRanges(cidrs)
    everything = list(ranges.candidates(seed))
    assert len(everything) == len(set(everything)) == len(ranges)
    assert all(address in ranges for address in everything)


def test_ends_of_networks_and_foreign_addresses_are_not_in_the_ranges() -> None:
    ranges = AddressRanges(["10.0.0.0/30", "10.1.0.0/16"])
    assert [a for a in ("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.255.255") if a in ranges] == [
        "10.0.0.1", "10.0.0.2",
    ]  # fmt: skip
    assert len(ranges) == 2 + 2**16 - 2
    assert str(ranges) == "10.0.0.0/30, 10.1.0.0/16"


def test_a_machine_names_its_claim_as_objects_are_called() -> None:
    spec = {"cpu": {"cores": 1}, "memory": {"size": "1Gi"}, "virtualMachineIPAddressClaimName": "my claim",
            "blockDevices": [{"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}]}  # fmt: skip
    (error,) = errors(MACHINE, spec)
    assert error.startswith("spec.virtualMachineIPAddressClaimName: ")
