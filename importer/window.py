"""Bytes of a source in memory: as they came, from where readers are to where the source is."""

from bisect import bisect_right


class Window:
    """Pieces that follow each other. For one thread at a time."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._starts: list[int] = []
        self.end = 0
        """Where the next piece begins."""

    @property
    def start(self) -> int:
        """Where the first piece that is held begins."""
        return self._starts[0] if self._starts else self.end

    def append(self, piece: bytes) -> None:
        """Add what follows."""
        self._pieces.append(piece)
        self._starts.append(self.end)
        self.end += len(piece)

    def skip(self, length_bytes: int) -> None:
        """Go on after bytes that nobody will read."""
        self.drop(self.end)
        self.end += length_bytes

    def views(self, offset_bytes: int, end_bytes: int) -> list[memoryview]:
        """That range, which is held, without a copy."""
        views = []
        at = bisect_right(self._starts, offset_bytes) - 1
        while offset_bytes < end_bytes:
            start, piece = self._starts[at], self._pieces[at]
            views.append(memoryview(piece)[offset_bytes - start : end_bytes - start])
            offset_bytes, at = start + len(piece), at + 1
        return views

    def drop(self, end_bytes: int) -> None:
        """Forget the pieces that end before."""
        count = bisect_right(self._starts, end_bytes) - (end_bytes < self.end)
        del self._pieces[: max(count, 0)], self._starts[: max(count, 0)]
