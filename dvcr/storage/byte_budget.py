"""A bound on bytes that are held in memory."""

import threading


class ByteBudget:
    """Bounds the bytes that are on their way to the bucket. One piece larger than the budget goes alone."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = self._free_bytes = size_bytes
        self._changed = threading.Condition()

    def take(self, size_bytes: int) -> None:
        """Wait until there is room."""
        size_bytes = min(size_bytes, self._size_bytes)
        with self._changed:
            self._changed.wait_for(lambda: self._free_bytes >= size_bytes)
            self._free_bytes -= size_bytes

    def give(self, size_bytes: int) -> None:
        """Make room."""
        with self._changed:
            self._free_bytes += min(size_bytes, self._size_bytes)
            self._changed.notify_all()
