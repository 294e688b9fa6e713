"""The informer over a scripted server."""

import queue
from collections.abc import Iterator

from controller.api.resource import POD, Resource
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
        self.version = 10
        self.lists = 0
        self.watched_from: list[str] = []
        self.streams: queue.Queue[Stream] = queue.Queue()

    def list_page(self, resource: Resource, field_selector: str) -> tuple[list[Object], str]:
        self.lists += 1
        return list(self.pods), str(self.version)

    def watch(self, resource: Resource, resource_version: str, field_selector: str) -> Stream:
        self.watched_from.append(resource_version)
        stream = Stream()
        self.streams.put(stream)
        return stream

    def stream(self) -> Stream:
        return self.streams.get(timeout=5)


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
        server.version = 50
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
        server.pods, server.version = [], 50
        stream.events.put({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}})
        server.stream()
        assert running.names() == {"noted"}
        assert sorted(name for _, name in running.changes) == ["deleted", "gone"]


def test_managed_fields_are_not_kept() -> None:
    listed = pod("a", 1)
    listed["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    with Running(Server(listed)) as running:
        assert running.informer.get("a", "default") == pod("a", 1)
