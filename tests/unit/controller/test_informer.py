"""The informer over a scripted server."""

import queue
import time
from collections.abc import Iterator

from controller.api.resource import POD, Resource
from controller.runtime.backoff import Backoff
from controller.runtime.errors import ClusterError
from controller.runtime.index import Key, Object
from controller.runtime.informer import Informer
from tests.support.waiting import eventually


def pod(name: str, version: int) -> Object:
    return {"metadata": {"name": name, "namespace": "default", "resourceVersion": str(version)}}


class Stream:
    """A watch that the test writes to; None ends it, an error breaks it."""

    def __init__(self) -> None:
        self.events: queue.Queue[Object | ClusterError | None] = queue.Queue()

    def __iter__(self) -> Iterator[Object]:
        while (event := self.events.get()) is not None:
            if isinstance(event, ClusterError):
                raise event
            yield event

    def stop(self) -> None:
        self.events.put(None)


class Server:
    def __init__(self, *pods: Object) -> None:
        self.pods = list(pods)
        self.version = "10"
        self.lists = 0
        self.watched_from: list[str] = []
        self.streams: queue.Queue[Stream] = queue.Queue()

    def list_page(self, resource: Resource, field_selector: str) -> tuple[list[Object], str]:
        self.lists += 1
        return list(self.pods), self.version

    def current_version(self, resource: Resource) -> str:
        return self.version

    def watch(self, resource: Resource, resource_version: str, field_selector: str) -> Stream:
        self.watched_from.append(resource_version)
        stream = Stream()
        self.streams.put(stream)
        return stream

    def stream(self) -> Stream:
        return self.streams.get(timeout=10)


class Running:
    def __init__(self, server: Server) -> None:
        self.changes: list[Key] = []
        self.informer = Informer(server, POD, lambda namespace, name: self.changes.append((namespace, name)))

    def __enter__(self) -> "Running":
        self.informer.start()
        assert self.informer.wait_synced(5)
        return self

    def __exit__(self, *_: object) -> None:
        self.informer.stop()

    def names(self) -> set[str]:
        return {obj["metadata"]["name"] for obj in self.informer.list()}


def test_it_lists_then_follows() -> None:
    server = Server(pod("a", 1))
    with Running(server) as running:
        stream = server.stream()
        stream.events.put({"type": "ADDED", "object": pod("b", 11)})
        stream.events.put({"type": "DELETED", "object": pod("a", 12)})
        eventually(lambda: running.names() == {"b"}, "a replaced by b")
        assert running.changes == [("default", "a"), ("default", "b"), ("default", "a")]
        assert running.informer.get("b", "default") == pod("b", 11)


def test_it_goes_on_from_the_last_version_when_the_watch_ends() -> None:
    server = Server()
    with Running(server):
        stream = server.stream()
        stream.events.put({"type": "ADDED", "object": pod("a", 11)})
        server.version = "40"
        stream.events.put({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "40"}}})
        stream.events.put(None)
        server.stream()
        assert server.watched_from == ["10", "40"]
        assert server.lists == 1


def test_an_expired_version_lists_anew_and_tells_what_was_missed() -> None:
    server = Server(pod("gone", 1), pod("same", 2), pod("changed", 3))
    with Running(server) as running:
        stream = server.stream()
        running.changes.clear()
        server.pods = [pod("same", 2), pod("changed", 30), pod("new", 31)]
        server.version = "50"
        stream.events.put({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}})
        server.stream()
        assert server.watched_from == ["10", "50"]
        assert sorted(name for _, name in running.changes) == ["changed", "gone", "new"]
        assert running.names() == {"same", "changed", "new"}


def test_a_broken_connection_is_taken_up_again() -> None:
    server = Server()
    with Running(server) as running:
        server.stream().events.put(ClusterError("cut"))
        server.stream().events.put({"type": "ADDED", "object": pod("a", 11)})
        eventually(lambda: running.names() == {"a"}, "an event after the cut")
        assert server.lists == 1


def test_what_was_written_is_known_before_the_watch_tells_of_it_and_never_replaced_by_something_older() -> None:
    server = Server(pod("a", 1))
    with Running(server) as running:
        stream = server.stream()
        running.informer.note(pod("a", 12) | {"spec": "new"})
        assert running.informer.get("a", "default") == pod("a", 12) | {"spec": "new"}
        running.changes.clear()
        stream.events.put({"type": "MODIFIED", "object": pod("a", 11)})
        eventually(lambda: running.changes == [("default", "a")], "the watch tells of the version before")
        assert running.informer.get("a", "default") == pod("a", 12) | {"spec": "new"}


def test_what_the_watch_has_passed_by_is_not_brought_back() -> None:
    server = Server(pod("a", 1))
    with Running(server) as running:
        stream = server.stream()
        stream.events.put({"type": "DELETED", "object": pod("a", 13)})
        eventually(lambda: running.names() == set(), "a is gone")
        running.informer.note(pod("a", 12))
        assert running.names() == set()


def test_a_new_list_does_not_know_what_was_written_after_it_and_what_is_deleted_goes() -> None:
    server = Server(pod("gone", 1))
    with Running(server) as running:
        stream = server.stream()
        running.informer.note(pod("noted", 60))
        running.informer.note(pod("deleted", 40))
        running.changes.clear()
        server.pods, server.version = [], "50"
        stream.events.put({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}})
        server.stream()
        assert running.names() == {"noted"}
        assert sorted(name for _, name in running.changes) == ["deleted", "gone"]


def test_managed_fields_are_not_kept() -> None:
    listed = pod("a", 1)
    listed["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    with Running(Server(listed)) as running:
        assert running.informer.get("a", "default") == pod("a", 1)


def test_a_server_that_has_gone_back_is_listed_anew_and_what_it_does_not_have_is_forgotten() -> None:
    """As after the restore of a backup: versions are given out a second time."""
    server = Server(pod("later", 5), pod("same", 6))
    server.version = "100"
    with Running(server) as running:
        stream = server.stream()
        stream.events.put({"type": "ADDED", "object": pod("later-still", 101)})
        eventually(lambda: "later-still" in running.names(), "an event")
        running.changes.clear()
        server.pods, server.version = [pod("same", 6) | {"spec": "another"}, pod("new", 7)], "8"
        stream.events.put(ClusterError("the server stopped"))
        stream = server.stream()
        assert server.watched_from == ["100", "8"]
        assert running.names() == {"same", "new"}
        assert running.informer.get("same", "default") == pod("same", 6) | {"spec": "another"}
        assert sorted(name for _, name in running.changes) == ["later", "later-still", "new", "same"]
        stream.events.put({"type": "ADDED", "object": pod("newer", 9)})
        eventually(lambda: "newer" in running.names(), "what comes then is followed")


def test_a_list_is_believed_where_it_has_something_older() -> None:
    """As after the restore of a backup whose revisions were made to go on."""
    server = Server(pod("a", 1), pod("b", 2))
    with Running(server) as running:
        stream = server.stream()
        stream.events.put({"type": "MODIFIED", "object": pod("a", 12)})
        eventually(lambda: running.informer.get("a", "default") == pod("a", 12), "an event")
        running.changes.clear()
        server.version = "1000000005"
        stream.events.put({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}})
        server.stream()
        assert running.informer.get("a", "default") == pod("a", 1)
        assert running.changes == [("default", "a")]


def test_a_kind_without_versions_is_followed_by_lists() -> None:
    """As some aggregated APIs have them."""

    def bare(name: str, spec: str) -> Object:
        return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}

    server = Server(bare("a", "1"), bare("gone", "1"))
    server.version = ""
    with Running(server) as running:
        stream = server.stream()
        stream.events.put({"type": "MODIFIED", "object": bare("a", "2")})
        stream.events.put({"type": "ADDED", "object": bare("b", "1")})
        stream.events.put({"type": "DELETED", "object": bare("gone", "1")})
        eventually(lambda: running.names() == {"a", "b"}, "the events")
        assert running.informer.get("a", "default") == bare("a", "2")
        running.informer.note(bare("noted", "1"))
        assert running.names() == {"a", "b"}, "nobody can tell whether it is still true"
        running.changes.clear()
        server.pods = [bare("a", "3")]
        stream.events.put(None)
        server.stream()
        assert server.watched_from == ["", ""]
        assert running.informer.list() == [bare("a", "3")]
        assert sorted(name for _, name in running.changes) == ["a", "b"]


def test_what_is_no_event_ends_nothing() -> None:
    server = Server(pod("a", 1))
    with Running(server) as running:
        server.stream().events.put({"type": "ADDED"})
        server.pods, server.version = [pod("b", 11)], "12"
        server.stream().events.put({"type": "ADDED", "object": pod("c", 13)})
        eventually(lambda: running.names() == {"b", "c"}, "it goes on")


def test_an_unknown_version_is_the_same_as_one_that_is_too_old() -> None:
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    error = {"kind": "Status", "code": 504, "reason": "Timeout", "details": {"causes": [cause]}}
    server = Server()
    with Running(server):
        server.stream().events.put({"type": "ERROR", "object": error})
        server.stream()
        assert server.lists == 2


def test_a_watch_that_ends_at_once_is_not_repeated_at_once() -> None:
    server = Server()
    with Running(server):
        begin = time.monotonic()
        server.stream().events.put(None)
        server.stream()
        assert time.monotonic() - begin >= 0.8


def test_waiting_grows_to_a_bound_and_is_never_shorter_than_what_was_asked() -> None:
    backoff = Backoff()
    delays = [backoff.next_s() for _ in range(8)]
    for delay_s, first_s in zip(delays, (0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30), strict=True):
        assert first_s <= delay_s <= min(30, 2 * first_s)
    assert backoff.next_s(45) == 45
    backoff.reset()
    assert backoff.next_s() <= 1.6
