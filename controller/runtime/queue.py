"""The queue between informers and workers: every key at most once, delays, and back-off for each key."""

import heapq
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Keys that wait to be worked on. A key is handed to one worker at a time; added meanwhile, it comes again.

    Thread-safe. `get` must be followed by `done`.
    """

    def __init__(
        self,
        *,
        first_backoff_s: float = 0.25,
        max_backoff_s: float = 60,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_backoff_s = first_backoff_s
        self._max_backoff_s = max_backoff_s
        self._clock = clock
        self._ready: deque[K] = deque()
        self._waiting: set[K] = set()
        """Keys in `_ready`, or to be put there when their worker is done."""
        self._active: set[K] = set()
        self._delayed: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._count = 0
        self._failures: dict[K, int] = {}
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Keys that no worker has taken yet, without those that are delayed."""
        with self._changed:
            return len(self._ready)

    def add(self, key: K) -> None:
        """Put the key up, unless it waits already."""
        with self._changed:
            self._add(key)

    def add_after(self, key: K, delay_s: float) -> None:
        """Put the key up in a while; the earliest of several delays counts."""
        with self._changed:
            due = self._clock() + delay_s
            if self._due.get(key, due + 1) <= due:
                return
            self._due[key] = due
            self._count += 1
            heapq.heappush(self._delayed, (due, self._count, key))
            self._changed.notify()

    def retry(self, key: K, at_least_s: float = 0) -> float:
        """Put the key up after its back-off, which doubles each time, or later; the delay in seconds."""
        with self._changed:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
        delay_s: float = min(self._max_backoff_s, self._first_backoff_s * 2.0 ** min(failures, 20))
        delay_s = max(delay_s * random.uniform(0.8, 1), at_least_s)
        self.add_after(key, delay_s)
        return delay_s

    def forget(self, key: K) -> None:
        """Success: the next back-off of the key starts anew."""
        with self._changed:
            self._failures.pop(key, None)

    def get(self) -> K | None:
        """The next key, waiting for one; None once the queue is closed."""
        with self._changed:
            while not self._closed:
                self._promote()
                if self._ready:
                    key = self._ready.popleft()
                    self._waiting.discard(key)
                    self._active.add(key)
                    return key
                self._changed.wait(max(0.0, self._delayed[0][0] - self._clock()) if self._delayed else None)
            return None

    def done(self, key: K) -> None:
        """The worker is finished with the key."""
        with self._changed:
            self._active.discard(key)
            if key in self._waiting:
                self._ready.append(key)
                self._changed.notify()

    def close(self) -> None:
        """Send every worker home."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _add(self, key: K) -> None:
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._active:
            self._ready.append(key)
            self._changed.notify()

    def _promote(self) -> None:
        while self._delayed and self._delayed[0][0] <= self._clock():
            due, _, key = heapq.heappop(self._delayed)
            if self._due.get(key) == due:
                del self._due[key]
                self._add(key)
