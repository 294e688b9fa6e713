"""Recognises sequential reads among others, and tells what to fetch ahead of them. Pure."""

from collections import OrderedDict
from collections.abc import Callable

MAX_STREAMS = 8


class Streams:
    """Follows a few sequential readers at once. Positions are ranks among the stored chunks, so that holes are no gap.

    A position that continues none of them begins a new one, of which nothing is fetched ahead until it goes on; then
    the distance doubles with each step. Of `capacity()` chunks, which are dropped least recently used first, each
    stream has its share: for the chunk it reads, those ahead of it, and as many behind it that were used since those
    came.
    """

    def __init__(self, longest: int, capacity: Callable[[], int]) -> None:
        """`longest`: chunks ahead of one stream, at most."""
        self._longest = longest
        self._capacity = capacity
        self._ahead: OrderedDict[int, int] = OrderedDict()  # the rank that comes next: chunks ahead of it

    def follow(self, rank: int) -> range:
        """A read at that rank: the ranks that are to be there soon."""
        following = rank + 1
        if rank in self._ahead:
            ahead = min(max(1, 2 * self._ahead.pop(rank)), self._limit())
        else:
            # Not gone on to the next chunk: another read in the same one, or the first of a stream.
            ahead = self._ahead.pop(following, 0)
        self._ahead[following] = ahead
        if len(self._ahead) > MAX_STREAMS:
            self._ahead.popitem(last=False)
        return range(following, following + ahead)

    def _limit(self) -> int:
        streams = 1 + sum(1 for ahead in self._ahead.values() if ahead)
        return max(1, min(self._longest, (self._capacity() // streams - 1) // 2))
