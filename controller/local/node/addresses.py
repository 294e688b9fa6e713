"""Addresses of pods: one each, out of the node's loopback range."""

import ipaddress
import threading

from dvcr.errors import ConfigError, ResourceError


class AddressPool:
    """Hands out the addresses of a range, each to one owner. Thread-safe.

    Addresses are given in turn, so that a freed one rests before it is used again. Raises ConfigError unless `cidr` is
    an IPv4 loopback range of at least four addresses.
    """

    def __init__(self, cidr: str) -> None:
        try:
            network = ipaddress.IPv4Network(cidr)
        except ValueError as exc:
            raise ConfigError(f"node.pod_cidr {cidr!r} is no IPv4 range: {exc}") from exc
        if not network.is_loopback or network.num_addresses < 4:
            raise ConfigError(f"node.pod_cidr {cidr!r} is not within 127.0.0.0/8, or too small")
        self._first = int(network.network_address) + 1
        self._count = network.num_addresses - 2
        self._next = 0
        self._owners: dict[str, str] = {}
        self._lock = threading.Lock()

    def reserve(self, address: str, owner: str) -> None:
        """Note an address that `owner` has already."""
        with self._lock:
            self._owners[address] = owner
            self._next = max(self._next, int(ipaddress.IPv4Address(address)) - self._first + 1)

    def take(self, owner: str) -> str:
        """A free address for `owner`; ResourceError if there is none."""
        with self._lock:
            for offset in range(self._count):
                address = str(ipaddress.IPv4Address(self._first + (self._next + offset) % self._count))
                if address not in self._owners:
                    self._owners[address] = owner
                    self._next += offset + 1
                    return address
        raise ResourceError("the node has no free pod address; widen node.pod_cidr", reason="NoFreeAddress")

    def release(self, owner: str) -> None:
        """Free the addresses of `owner`. Idempotent."""
        with self._lock:
            self._owners = {address: held for address, held in self._owners.items() if held != owner}
