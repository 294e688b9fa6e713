import asyncio

import pytest

from dvcr.errors import StorageError
from dvcr.http.health import Readiness


class Store:
    """Counts how often it is looked at, at a time that the test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.looks = 0
        self.is_well = True
        self.readiness = Readiness(self._look, lambda: self.now)

    def probe(self) -> None:
        asyncio.run(self.readiness.confirm())

    async def _look(self) -> None:
        self.looks += 1
        if not self.is_well:
            raise StorageError("gone", reason="Gone", retryable=True)


def test_a_good_answer_stands_for_a_minute() -> None:
    store = Store()
    for now, looks in ((1000, 1), (1059, 1), (1060, 2), (1119, 2)):
        store.now = now
        store.probe()
        assert store.looks == looks


def test_a_bad_answer_stands_for_nothing() -> None:
    store = Store()
    store.is_well = False
    for _ in range(2):
        with pytest.raises(StorageError):
            store.probe()
    store.is_well = True
    store.probe()
    assert store.looks == 3
