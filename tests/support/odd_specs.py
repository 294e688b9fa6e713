"""Specs that are almost right: a text with one character more, less or other; a value of another type, or none."""

import copy
import random
from collections.abc import Iterator
from typing import Any

_CHARACTERS = [*"aZ09-._/:@?#[]%= \n\t\\'\"", "\u0663", "\u2028", "__", "..", "--", "\0", "\r"]  # fmt: skip
_OTHERS: tuple[Any, ...] = (None, 0, -1, 2**40, 1.5, True, "", "x", "10Gi", [], {}, ["x"], {"name": "x"})


def odd(spec: dict[str, Any], luck: random.Random) -> dict[str, Any]:
    """A copy with one or two things changed; at times none."""
    changed = copy.deepcopy(spec)
    for _ in range(luck.choice((0, 1, 1, 1, 2))):
        places = list(_places(changed))
        if places:
            holder, key = luck.choice(places)
            _change(holder, key, luck)
    return changed


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(part, (dict, list)):
            yield from _places(part)


def _change(holder: Any, key: Any, luck: random.Random) -> None:
    value, chance = holder[key], luck.random()
    if isinstance(value, str) and chance < 0.7:
        holder[key] = _misspelt(value, luck)
    elif chance < 0.8:
        holder[key] = copy.deepcopy(luck.choice(_OTHERS))
    elif chance < 0.9 and isinstance(holder, list):
        holder.append(copy.deepcopy(value))
    else:
        del holder[key]


def _misspelt(text: str, luck: random.Random) -> str:
    at, skipped = luck.randint(0, len(text)), luck.randint(0, 1)
    return f"{text[:at]}{luck.choice((*_CHARACTERS, ''))}{text[at + skipped :]}"
