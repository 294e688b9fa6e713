"""Sets of ports, as settings write them: `22,80,8000-8100`; empty for none. Pure."""

from collections.abc import Iterable

LAST_PORT = 65535
LOW_PORTS_END = 1024
LOW_PORTS_AT = 62000
"""Where a port below 1024 answers if the launcher may not bind it: at this much more than its number."""


def parse_ports(text: str) -> frozenset[int]:
    """The ports; ValueError says which part is none."""
    ports: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = part.partition("-")
        try:
            bounds = int(first), int(last if dash else first)
        except ValueError:
            raise ValueError(f"{part!r} is neither a port nor a range such as 8000-8100") from None
        if not 1 <= bounds[0] <= bounds[1] <= LAST_PORT:
            raise ValueError(f"{part!r} is no rising range of ports from 1 to {LAST_PORT}")
        ports.update(range(bounds[0], bounds[1] + 1))
    return frozenset(ports)


def forwarded(wanted: Iterable[int], reserved: Iterable[int], *, first_bindable: int) -> dict[int, int]:
    """From the port at the machine's address to the guest's, in rising order.

    `reserved` stay the launcher's own. Guest ports below `first_bindable` answer at LOW_PORTS_AT plus their number.
    """
    ports = set(wanted)
    low = {port for port in ports if port < min(first_bindable, LOW_PORTS_END)}
    pairs = {port: port for port in ports - low} | {port + LOW_PORTS_AT: port for port in low}
    return {port: pairs[port] for port in sorted(pairs.keys() - set(reserved))}


def write_ranges(pairs: dict[int, int]) -> list[str]:
    """The pairs as passt has them: `22`, `8000-8100`, or with what they become in the guest, `62022-62023:22-23`."""
    out: list[str] = []
    runs: list[list[int]] = []
    for port, inside in pairs.items():
        if runs and runs[-1][1] == port - 1 and runs[-1][2] + (port - runs[-1][0]) == inside:
            runs[-1][1] = port
        else:
            runs.append([port, port, inside])
    for first, last, inside in runs:
        outer = _range(first, last)
        out.append(outer if first == inside else f"{outer}:{_range(inside, inside + last - first)}")
    return out


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
