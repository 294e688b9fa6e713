"""A source of an import, in memory."""

from tests.support.images import MemorySource


class MemoryImportSource(MemorySource):
    """An ImportSource over bytes; tells its length only where it is asked to."""

    def __init__(self, data: bytes, *, announced: bool = True) -> None:
        super().__init__(data)
        self._announced = announced
        self.furthest = 0
        self.trouble = ""
        self.finished = False
        self.aborted = False

    @property
    def total_bytes(self) -> int | None:
        return len(self.data) if self._announced or self.finished or self.furthest > len(self.data) else None

    @property
    def fetched_bytes(self) -> int:
        return min(self.furthest, len(self.data))

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        assert offset_bytes >= self.released, "released bytes are gone"
        self.furthest = max(self.furthest, offset_bytes + length_bytes)
        return super().read_at(offset_bytes, length_bytes)

    def finish(self) -> None:
        self.finished = True

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        pass
