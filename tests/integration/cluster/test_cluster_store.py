"""The store on a real disk: order, undoing, compaction, and what is there after a restart."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controller.api.errors import StatusError
from controller.local.cascade import expire_events
from controller.local.store import HISTORY_LENGTH, Key, Store, Stored, Transaction
from controller.local.watch import WatchRequest, watch
from dvcr.errors import StorageError

KEY = Key("configmaps", "default", "a")


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Store]:
    store = Store(path / "cluster.db")
    store.start()
    try:
        yield store
    finally:
        await store.close()


def put(value: int, key: Key = KEY) -> Callable[[Transaction], Stored]:
    return lambda tx: tx.put(key, {"apiVersion": "v1", "metadata": {"name": key.name, "uid": key.name}, "v": value})


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


def test_a_write_that_fails_leaves_nothing_and_does_not_disturb_others(tmp_path: Path) -> None:
    def failing(tx: Transaction) -> None:
        tx.put(Key("configmaps", "default", "b"), {"metadata": {"name": "b", "uid": "b"}})
        tx.remove(KEY)
        raise KeyError("no")

    async def test() -> None:
        async with opened(tmp_path) as store:
            outcomes: Any = await asyncio.gather(
                store.write(put(1)), store.write(failing), store.write(put(2)), return_exceptions=True
            )
            assert isinstance(outcomes[1], KeyError)
            assert [outcomes[0].version, outcomes[2].version] == [1, 2]
            assert [stored.obj["v"] for stored in store.image.of("configmaps")] == [2]
            dry = await store.write(put(3), dry_run=True)
            assert (dry.obj["v"], store.image.version) == (3, 2)

    run(test)


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            await store.write(put(1))
            await store.write(put(2))
            await store.write(lambda tx: tx.remove(KEY))
        async with opened(tmp_path) as store:
            assert (store.image.version, store.image.of("configmaps")) == (3, [])
            changes = store.history("configmaps").since(0)
            assert [change.type for change in changes] == ["ADDED", "MODIFIED", "DELETED"]
            assert changes[1].before is not None
            assert (changes[1].before.version, changes[1].before.obj["v"]) == (1, 1)
            assert (await store.write(put(3))).version == 4

    run(test)


def test_history_is_compacted_and_old_watches_are_told(tmp_path: Path) -> None:
    async def first_events(store: Store, version: int) -> int:
        request = WatchRequest("configmaps", "", None, version, timeout_s=0.01)
        return sum([len(batch) async for batch in watch(store, request)])

    async def test() -> None:
        async with opened(tmp_path) as store:
            rare = await store.write(put(0, Key("leases", "default", "rare")))
            for _ in range(25):
                await asyncio.gather(*(store.write(put(value)) for value in range(400)))
            with pytest.raises(StatusError, match="too old") as told:
                await first_events(store, 1)
            assert (told.value.code, told.value.reason) == (410, "Expired")
            recent = store.image.version - HISTORY_LENGTH + 1
            assert await first_events(store, recent) == HISTORY_LENGTH - 1
            assert await first_events(store, store.image.version) == 0
            assert store.history("leases").since(0)[0].version == rare.version
        async with opened(tmp_path) as store:
            with pytest.raises(StatusError, match="too old"):
                await first_events(store, 1)
            assert await first_events(store, recent) == HISTORY_LENGTH - 1
            assert len(store.history("leases").since(0)) == 1
        rows = (tmp_path / "cluster.db").stat().st_size
        assert rows < 10 * 2**20

    run(test)


def test_a_second_server_over_the_same_database_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path):
            with pytest.raises(StorageError, match="locked"):
                Store(tmp_path / "cluster.db")

    run(test)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match=r"cluster\.db"):
        Store(tmp_path / "cluster.db")


def test_events_are_forgotten_an_hour_after_they_were_told_last(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def told(name: str, at: str) -> Callable[[Transaction], Stored]:
        metadata = {"name": name, "uid": name, "creationTimestamp": "2026-01-01T09:00:00Z"}
        return lambda tx: tx.put(Key("events", "default", name), {"metadata": metadata, "lastTimestamp": at})

    async def test() -> None:
        async with opened(tmp_path) as store:
            for name, at in (("old", "2026-01-01T10:59:59Z"), ("again", "2026-01-01T11:00:00Z"), ("untold", "")):
                await store.write(told(name, at))
            await store.write(put(1))
            await store.write(lambda tx: expire_events(tx, now))
            assert [stored.key.name for stored in store.image.of("events")] == ["again"]
            assert len(store.image.of("configmaps")) == 1

    run(test)
