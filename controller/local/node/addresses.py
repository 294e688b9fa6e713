"""Addresses of pods: one each, out of the node's loopback range."""

import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Protocol

from dvcr.errors import ConfigError, ResourceError


class Claim(Protocol):
    """An address held against other agents until it is closed."""

    def close(self) -> None: ...


def claim_on_host(address: str) -> Claim | None:
    """Hold the address among all agents of this machine; None if another one holds it.

    The name of an abstract socket belongs to one process of the network namespace, as loopback addresses do, and is
    free again when the process is gone.
    """
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(f"\0dvcr-pod-address/{address}")
    except OSError:
        holder.close()
        return None
    return holder


class AddressPool:
    """Hands out the addresses of a range, each to one owner. Thread-safe.

    Addresses are given in turn, so that a freed one rests before it is used again; those that `claim` does not get are
    left out. Raises ConfigError unless `cidr` is an IPv4 loopback range of at least four addresses.
    """

    def __init__(self, cidr: str, claim: Callable[[str], Claim | None] = claim_on_host) -> None:
        try:
            network = ipaddress.IPv4Network(cidr)
        except ValueError as exc:
            raise ConfigError(f"node.pod_cidr {cidr!r} is no IPv4 range: {exc}") from exc
        if not network.is_loopback or network.num_addresses < 4:
            raise ConfigError(f"node.pod_cidr {cidr!r} is not within 127.0.0.0/8, or too small")
        self._first = int(network.network_address) + 1
        self._count = network.num_addresses - 2
        self._claim = claim
        self._next = 0
        self._owners: dict[str, tuple[str, Claim | None]] = {}
        self._lock = threading.Lock()

    def reserve(self, address: str, owner: str) -> None:
        """Note an address that `owner` has already."""
        with self._lock:
            # Should another agent have got it meanwhile, the pod still has it: it was first.
            self._owners[address] = (owner, self._claim(address))
            number = int(ipaddress.IPv4Address(address)) - self._first
            if number < self._count:
                self._next = max(self._next, number + 1)

    def take(self, owner: str) -> str:
        """A free address for `owner`; ResourceError if there is none."""
        with self._lock:
            for offset in range(self._count):
                address = str(ipaddress.IPv4Address(self._first + (self._next + offset) % self._count))
                if address in self._owners:
                    continue
                claim = self._claim(address)
                if claim is not None:
                    self._owners[address] = (owner, claim)
                    self._next += offset + 1
                    return address
        raise ResourceError("the node has no free pod address; widen node.pod_cidr", reason="NoFreeAddress")

    def take_leased(self, owner: str, address: str) -> None:
        """Give `owner` the address that it has a lease of, in the range or not.

        ResourceError if it is no loopback address or somebody has it.
        """
        if not _is_loopback(address):
            message = f"{address!r} is no loopback address, and this node has no others: see controller.machine_cidrs"
            raise ResourceError(message, reason="AddressRefused")
        with self._lock:
            claim = None if address in self._owners else self._claim(address)
            if claim is None:
                raise ResourceError(f"the address {address} is still in use", reason="AddressInUse", retryable=True)
            self._owners[address] = (owner, claim)

    def release(self, owner: str) -> None:
        """Free the addresses of `owner`. Idempotent."""
        with self._lock:
            for address, (held_by, claim) in list(self._owners.items()):
                if held_by == owner:
                    del self._owners[address]
                    if claim is not None:
                        claim.close()

    def close(self) -> None:
        """Give up every address."""
        with self._lock:
            owners = [owner for owner, _ in self._owners.values()]
        for owner in owners:
            self.release(owner)


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.IPv4Address(text).is_loopback
    except ValueError:
        return False
