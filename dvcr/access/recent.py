"""Answers that are kept for a short while."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `size` answers, the oldest forgotten first, each at most for `life_s`. For one thread."""

    def __init__(self, size: int, life_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._life_s = life_s
        self._now = now
        self._answers: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The answer, or None if there is none (any more)."""
        answer, expires_at = self._answers.get(key, (None, 0.0))
        return answer if self._now() < expires_at else None

    def put(self, key: K, answer: V, life_s: float | None = None) -> None:
        """Keep an answer, for less than usual if `life_s` says so."""
        self._answers.pop(key, None)
        self._answers[key] = answer, self._now() + min(self._life_s, self._life_s if life_s is None else life_s)
        while len(self._answers) > self._size:
            self._answers.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._answers.clear()
