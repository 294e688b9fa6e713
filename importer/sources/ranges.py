"""A part of a file over several connections at once, handed on in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

SEGMENT_BYTES = 4 * 2**20

FetchRange = Callable[[int, int], list[bytes]]
"""Offset and length to exactly those bytes, in pieces."""


class ParallelRanges:
    """`fetch` over `connections` threads. At most one segment for each, and the one handed on, is held in memory."""

    def __init__(self, fetch: FetchRange, connections: int) -> None:
        self._fetch = fetch
        self._connections = connections
        self._pool = ThreadPoolExecutor(connections, "http-range")

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to `end`, in order. Raises what fetching one of them raised, at its place."""
        waiting: deque[Future[list[bytes]]] = deque()
        try:
            while waiting or start < end:
                while start < end and len(waiting) < self._connections:
                    length = min(SEGMENT_BYTES, end - start)
                    waiting.append(self._pool.submit(self._fetch, start, length))
                    start += length
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Wait for what is under way, and end the threads."""
        self._pool.shutdown(cancel_futures=True)
