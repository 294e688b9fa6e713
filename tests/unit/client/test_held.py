"""Blobs that are held against garbage collection while an import takes its time."""

from datetime import UTC, datetime, timedelta

import requests

from dvcr.client.held import HeldBlobs
from dvcr.digest import Digest
from tests.support.memory_registry import Answer, Fault, MemoryRegistry
from tests.support.waiting import eventually

NEVER_S = 3600.0
TURN = timedelta(minutes=20)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BLOBS = [b"%d" % number for number in range(100)]


def test_in_a_week_no_blob_gets_as_old_as_a_day_and_every_hour_one_is_used() -> None:
    registry = MemoryRegistry()
    repository = registry.client().repository("vmi/a/b")
    now, used = datetime(2026, 1, 1, tzinfo=UTC), dict[str, datetime]()

    def note(request: requests.PreparedRequest) -> Answer | None:
        if request.method == "HEAD":
            used[str(request.url).rpartition("/")[2]] = now
        return None

    registry.intercept = note
    held = HeldBlobs(repository, NEVER_S)
    for turn in range(7 * 24 * 3):
        if turn < len(BLOBS):
            digest = Digest.of(BLOBS[turn])
            repository.push_blob(digest, BLOBS[turn])
            held.add(digest)
            used[str(digest)] = now
        now += TURN
        held.refresh()
        assert now - min(used.values()) < DAY
        assert now - max(used.values()) < HOUR
    held.close()
    assert len(used) == len(BLOBS)
    assert registry.count("HEAD ") < 24 * 7 * len(BLOBS)


def test_a_registry_that_is_away_for_a_while_is_asked_again() -> None:
    registry = MemoryRegistry()
    repository = registry.client().repository("vmi/a/b")
    repository.push_blob(Digest.of(b"blob"), b"blob")
    registry.faults = [Fault("HEAD", "blobs", times=8)]
    held = HeldBlobs(repository, 0.01)
    held.add(Digest.of(b"blob"))
    eventually(lambda: registry.count("HEAD ") > 10, "it is asked again")
    held.close()
    asked = registry.count("HEAD ")
    held.close()
    assert registry.count("HEAD ") == asked
