"""How long to wait before something that failed is tried again."""

import random

FIRST_S = 0.8
LONGEST_S = 30.0


class Backoff:
    """Doubles with each failure, from 0.8 to 30 s, with as much again at random: as client-go's reflector waits."""

    def __init__(self) -> None:
        self._failures = 0

    def next_s(self, at_least_s: float = 0) -> float:
        """After one more failure; `at_least_s` is what the other side asked for."""
        delay_s = min(LONGEST_S, FIRST_S * 2.0 ** min(self._failures, 20) * random.uniform(1, 2))
        self._failures += 1
        return max(delay_s, at_least_s)

    def reset(self) -> None:
        """It works."""
        self._failures = 0
