"""How much repositories may hold."""

import os
from datetime import timedelta

import pytest

from dvcr.digest import Digest
from dvcr.registry.errors import QuotaError
from dvcr.registry.quota import COUNT_INTERVAL_S, RECOUNT_INTERVAL_S, Quotas
from dvcr.registry.registry import Registry
from tests.support.memory_storage import MemoryStorage


def registry(storage: MemoryStorage | None = None, **quotas: int) -> Registry:
    """`store` limits the store, other names the repositories that begin with them."""
    limits = {"" if name == "store" else f"{name}/": limit for name, limit in quotas.items()}
    return Registry(storage or MemoryStorage(), quotas=limits, grace=timedelta(0))


def push(where: Registry, repository: str, data: bytes) -> Digest:
    upload = where.uploads.begin(repository)
    upload.append(data)
    upload.commit(repository, Digest.of(data))
    return Digest.of(data)


def test_a_prefix_holds_no_more_than_its_limit() -> None:
    ours = registry(team=1000)
    push(ours, "team/a", os.urandom(600))
    with pytest.raises(QuotaError, match=r"team/\*.* 1000 bytes and 600 are used"):
        push(ours, "team/b", os.urandom(401))
    assert list(ours.storage.uploads()) == []
    push(ours, "team/b", os.urandom(400))
    push(ours, "others/a", os.urandom(5000))


def test_the_store_holds_no_more_than_its_limit() -> None:
    ours = registry(store=1000)
    data = os.urandom(600)
    push(ours, "a", data)
    with pytest.raises(QuotaError, match="the registry"):
        push(ours, "b", os.urandom(401))
    assert ours.blobs.mount("b", Digest.of(data))
    push(ours, "b", os.urandom(400))


def test_a_stream_is_stopped_where_the_limit_is() -> None:
    ours = registry(team=1000)
    upload = ours.uploads.begin("team/a")
    for _ in range(3):
        upload.append(bytes(300))
    with pytest.raises(QuotaError):
        upload.append(bytes(300))
    assert list(ours.storage.uploads()) == []


def test_a_session_is_limited_after_it_was_taken_up_again() -> None:
    ours = registry(team=1000)
    first = ours.uploads.begin("team/a")
    first.append(bytes(800))
    first.flush()
    with pytest.raises(QuotaError):
        ours.uploads.resume(first.id, repository="team/a").append(bytes(300))


def test_a_mount_counts_for_the_prefix() -> None:
    ours = registry(team=1000)
    large, small = push(ours, "a", os.urandom(900)), push(ours, "a", os.urandom(200))
    assert ours.blobs.mount("team/a", large)
    with pytest.raises(QuotaError):
        ours.blobs.mount("team/a", small)
    assert ours.blobs.mount("team/a", large)


def test_what_was_there_counts_and_what_was_freed_does_not() -> None:
    storage, clock = MemoryStorage(), [0.0]
    before = registry(storage)
    digest = push(before, "team/a", os.urandom(900))
    quotas = Quotas(storage, before.catalog, {"team/": 1000}, lambda: clock[0])
    with pytest.raises(QuotaError):
        quotas.require("team/b", 200)
    before.blobs.delete("team/a", digest)
    clock[0] += RECOUNT_INTERVAL_S
    quotas.require("team/b", 200)
    push(before, "team/c", os.urandom(900))
    quotas.require("team/b", 200)
    clock[0] += COUNT_INTERVAL_S
    with pytest.raises(QuotaError):
        quotas.require("team/b", 200)


def test_one_blob_in_several_repositories_of_a_prefix_counts_once() -> None:
    ours = registry(MemoryStorage())
    digest = push(ours, "team/a", os.urandom(900))
    assert ours.blobs.mount("team/b", digest)
    Quotas(ours.storage, ours.catalog, {"team/": 1000}).require("team/c", 100)
