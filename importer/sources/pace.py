"""The least that a source must bring: one that drips, a byte at a time, would hold its worker for ever."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dvcr.errors import SourceError

LEAST_BYTES_S = 10 * 2**10


class Pace:
    """What comes from a source in windows of `window_s`. Thread-safe."""

    def __init__(self, url: str, window_s: float) -> None:
        self._url = url
        self._window_s = window_s
        self._lock = threading.Lock()
        self._came_bytes = 0
        self._since = time.monotonic()
        self._paused = False

    def count(self, size_bytes: int) -> None:
        """So much has come, or nothing. SourceError `SourceTooSlow` once a window has brought less than 10 KiB/s."""
        with self._lock:
            self._came_bytes += size_bytes
            now = time.monotonic()
            waited_s = now - self._since
            if self._paused or waited_s < self._window_s:
                return
            came_bytes, self._came_bytes, self._since = self._came_bytes, 0, now
        if came_bytes < LEAST_BYTES_S * waited_s:
            raise SourceError(
                f"{self._url} has brought {came_bytes} bytes in {waited_s:.0f} s; less than 10 KiB/s are not waited "
                "for. Try again when the server is faster, or use another one",
                reason="SourceTooSlow",
                retryable=True,
            )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While entered, nobody waits for the source."""
        with self._lock:
            self._paused, began = True, time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._paused = False
                self._since += time.monotonic() - began
