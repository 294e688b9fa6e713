"""Letting go of what does not answer."""

import threading

import pytest

from dvcr.client.cancellation import Cancellation, RequestCancelledError
from dvcr.digest import Digest
from dvcr.errors import RegistryError
from tests.support.memory_registry import Fault, MemoryRegistry, refusal

DIGEST = Digest.of(b"x")


def test_a_call_gives_what_it_gives() -> None:
    cancellation = Cancellation()
    assert cancellation.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        cancellation.run(lambda: 1 // 0)


def test_a_call_that_hangs_is_let_go_of_and_its_result_thrown_away() -> None:
    cancellation, begun, end, late = Cancellation(), threading.Event(), threading.Event(), threading.Event()

    def hang() -> int:
        begun.set()
        end.wait()
        return 7

    def cancel() -> None:
        begun.wait()
        cancellation.cancel()

    threading.Thread(target=cancel).start()
    with pytest.raises(RequestCancelledError):
        cancellation.run(hang, lambda _: late.set())
    assert not late.is_set()
    end.set()
    assert late.wait(10)
    with pytest.raises(RequestCancelledError):
        cancellation.run(lambda: 7)


def test_children_go_with_their_parent_and_not_the_other_way() -> None:
    parent = Cancellation()
    child, sibling = parent.child(), parent.child()
    child.cancel()
    sibling.check()
    parent.check()
    parent.cancel()
    with pytest.raises(RequestCancelledError):
        sibling.check()
    with pytest.raises(RequestCancelledError):
        parent.child().check()


def test_whoever_comes_too_late_is_woken_at_once_and_whoever_left_is_not() -> None:
    cancellation, woken = Cancellation(), list[str]()
    with cancellation.waking(lambda: woken.append("left")):
        pass
    cancellation.on_cancel(lambda: woken.append("there"))
    cancellation.cancel()
    cancellation.cancel()
    cancellation.on_cancel(lambda: woken.append("late"))
    assert woken == ["there", "late"]


def test_a_cancelled_repository_asks_nothing_and_others_go_on() -> None:
    registry, cancellation = MemoryRegistry(), Cancellation()
    client = registry.client()
    cancelled = client.on_behalf_of(cancellation).repository("a/b")
    assert not cancelled.has_blob(DIGEST)
    cancellation.cancel()
    asked = len(registry.asked)
    with pytest.raises(RequestCancelledError):
        cancelled.has_blob(DIGEST)
    assert len(registry.asked) == asked
    assert not client.repository("a/b").has_blob(DIGEST)


def test_waits_between_attempts_end_too_and_attempts_are_told() -> None:
    registry, cancellation, told = MemoryRegistry(), Cancellation(), list[str]()
    registry.faults.append(Fault("HEAD", "/blobs/", times=9, answer=refusal(503, "UNAVAILABLE")))

    def cancel_at_the_second(trouble: str) -> None:
        told.append(trouble)
        if len(told) == 2:
            cancellation.cancel()

    repository = registry.client(attempts=4).on_behalf_of(cancellation, cancel_at_the_second).repository("a/b")
    with pytest.raises(RequestCancelledError):
        repository.has_blob(DIGEST)
    assert [text.rpartition(", ")[2] for text in told] == ["trying again (2 of 4)", "trying again (3 of 4)"]
    with pytest.raises(RegistryError):
        registry.client(attempts=1).repository("a/b").has_blob(DIGEST)
