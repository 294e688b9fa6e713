"""Whether an object is already as it is to be. Pure."""

from typing import Any


def contains(found: Any, wanted: Any) -> bool:
    """Whether `found` is `wanted`, but for what the server has added."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(contains(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(contains, found, wanted))
    return bool(found == wanted)
