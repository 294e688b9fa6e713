"""The addresses that machines may get. Pure."""

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator


class AddressRanges:
    """The addresses of some networks, without the first and the last of each."""

    def __init__(self, cidrs: Iterable[str]) -> None:
        self._networks = [ipaddress.IPv4Network(cidr) for cidr in cidrs]
        self._sizes = [max(0, network.num_addresses - 2) for network in self._networks]

    def __contains__(self, address: object) -> bool:
        value = ipaddress.IPv4Address(str(address))
        return any(
            network.network_address < value < network.broadcast_address
            for network in self._networks
        )  # fmt: skip

    def __len__(self) -> int:
        return sum(self._sizes)

    def __str__(self) -> str:
        return ", ".join(map(str, self._networks)) or "none"

    def candidates(self, seed: str) -> Iterator[str]:
        """All addresses, each once, from a place that depends on `seed`.

        So two allocations at the same time rarely try the same address, and a freed one rests before it is used again.
        """
        count = len(self)
        if not count:
            return
        start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]) % count
        for step in range(count):
            yield self._at((start + step) % count)

    def _at(self, index: int) -> str:
        for network, size in zip(self._networks, self._sizes, strict=True):
            if index < size:
                return str(network.network_address + 1 + index)
            index -= size
        raise AssertionError("an index within the ranges")
