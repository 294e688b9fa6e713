"""Kubernetes quantities of bytes: "10Gi", "1.5G", "500M", "1e9"."""

import math
import re
from decimal import Decimal

_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18} | {
    f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("KMGTPE", start=1)
}
QUANTITY = r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?P<suffix>[KMGTPE]i|[kMGTPE]|[eE][+-]?[0-9]{1,2})?"
_QUANTITY = re.compile(QUANTITY)


def parse_bytes(quantity: str | int) -> int:
    """Bytes, rounded up. Raises ValueError, saying what a quantity looks like."""
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None:
        raise ValueError(f"{quantity!r} is no quantity; write it like 10Gi, 512Mi or 20G")
    number, suffix = Decimal(match["number"]), match["suffix"] or ""
    factor = Decimal(_SUFFIXES[suffix]) if suffix in _SUFFIXES else Decimal(10) ** int(suffix[1:])
    return math.ceil(number * factor)


def format_bytes(size_bytes: int) -> str:
    """The shortest exact quantity: "10Gi", or plain bytes."""
    for power, letter in reversed(list(enumerate("KMGTPE", start=1))):
        if size_bytes and size_bytes % 2 ** (10 * power) == 0:
            return f"{size_bytes >> (10 * power)}{letter}i"
    return str(size_bytes)


def human_bytes(size_bytes: float) -> str:
    """For people, rounded: "1.5Gi", "37.2Mi", "512"."""
    for power, letter in reversed(list(enumerate("KMGTPE", start=1))):
        if size_bytes >= 2 ** (10 * power):
            return f"{size_bytes / 2 ** (10 * power):.1f}".removesuffix(".0") + f"{letter}i"
    return str(int(size_bytes))
