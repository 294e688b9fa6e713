"""A cache of one kind that follows the API server: list, then watch, again and again.

The official `kubernetes.informer` is not used: see docs/decisions/informer.md.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Protocol

import structlog

from controller.api.resource import Resource
from controller.runtime.backoff import Backoff
from controller.runtime.errors import ClusterError, ExpiredError, error_from
from controller.runtime.index import Index, IndexedObjects, Object, by_namespace, key_of

OnChange = Callable[[str, str], None]

_SHORT_S = 1.0
"""A watch that ends sooner, and without an event, is a failure."""

_log = structlog.get_logger(__name__)


class WatchStream(Protocol):
    """The events of one watch request, oldest first."""

    def __iter__(self) -> Iterator[Object]: ...

    def stop(self) -> None:
        """End the iteration, from another thread."""
        ...


class Source(Protocol):
    """What an informer needs of a cluster."""

    def list_page(self, resource: Resource, field_selector: str) -> tuple[list[Object], str]:
        """All objects and the resource version that they are of."""
        ...

    def current_version(self, resource: Resource) -> str:
        """The resource version that a list would be of now."""
        ...

    def watch(self, resource: Resource, resource_version: str, field_selector: str) -> WatchStream:
        """Everything that happens after that version."""
        ...


class Informer:
    """Keeps a copy of all objects of a kind; calls `on_change(namespace, name)` after each change of one.

    A call means "look at it again", nothing more: changes may be told together or twice, and after every list (start,
    expired watch) each object is told that changed meanwhile, deleted ones too. Objects that are handed out are shared:
    copy before changing one. They come without their `managedFields`. Thread-safe.
    """

    def __init__(
        self, source: Source, resource: Resource, on_change: OnChange | None = None, field_selector: str = ""
    ) -> None:
        self._source = source
        self._resource = resource
        self._on_change = on_change or (lambda _namespace, _name: None)
        self._field_selector = field_selector
        self._objects = IndexedObjects()
        self._by_namespace = by_namespace(resource)
        self._reached: int | None = None
        """The version up to which everything is known; None where the kind's versions say nothing."""
        self._lock = threading.Lock()
        self._synced = threading.Event()
        self._stopping = threading.Event()
        self._watch: WatchStream | None = None
        self._thread = threading.Thread(target=self._run, name=f"informer-{resource.plural}", daemon=True)

    def start(self) -> None:
        """Begin to follow, in a thread of its own."""
        self._thread.start()

    def wait_synced(self, timeout_s: float) -> bool:
        """Wait for the first complete list; False if it did not come in time."""
        return self._synced.wait(timeout_s)

    def stop(self, timeout_s: float = 5) -> None:
        """Stop following, and wait so long for a request that is under way. Idempotent."""
        self._stopping.set()
        with self._lock:
            watch = self._watch
        if watch is not None:
            watch.stop()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    @property
    def synced(self) -> bool:
        """Whether there has been a complete list."""
        return self._synced.is_set()

    def get(self, name: str, namespace: str | None = None) -> Object | None:
        """The last known state of an object."""
        with self._lock:
            return self._objects.get((namespace or "", name))

    def find(self, index: Index, value: Hashable) -> list[Object]:
        """The last known state of the objects that have the value."""
        with self._lock:
            return self._objects.find(index, value)

    def list(self, namespace: str | None = None) -> list[Object]:
        """The last known state of all objects, or of those of one namespace."""
        with self._lock:
            return self._objects.all() if namespace is None else self._objects.find(self._by_namespace, namespace)

    def note(self, obj: Object) -> None:
        """Know an object as the server just answered it, before the watch tells, which it will: no change is told.

        The object is kept, and loses its `managedFields`.
        """
        obj["metadata"].pop("managedFields", None)
        with self._lock:
            # What the watch has passed by, it has also told of, and perhaps of what came after it.
            if _is_newer(_version(obj), self._reached):
                self._put(obj)

    def _run(self) -> None:
        log = _log.bind(kind=self._resource.kind)
        version, backoff = "", Backoff()
        while not self._stopping.is_set():
            asked_s: float = 0
            try:
                if version:
                    self._check(version)
                else:
                    version = self._list()
                began, told = time.monotonic(), False
                for reached in self._follow(version):
                    version, told = reached, True
                    backoff.reset()
                if told or time.monotonic() - began > _SHORT_S:
                    backoff.reset()
                    continue
                why = "the watch ended at once"
            except ExpiredError as exc:
                version, why = "", exc.message
            except ClusterError as exc:
                why, asked_s = exc.message, exc.retry_after_s
            except Exception:  # a bug with one object must not end that the others are followed
                log.exception("cannot follow")
                version, why = "", "a bug"
            if self._stopping.is_set():
                return
            delay_s = backoff.next_s(asked_s)
            log.warning("cannot follow", error=why, retry_s=round(delay_s, 1))
            self._stopping.wait(delay_s)

    def _check(self, version: str) -> None:
        """Raises ExpiredError where the server has not come as far, as after the restore of a backup.

        Kubernetes takes up a watch from such a version, and then tells nothing until it is reached again.
        """
        current = self._source.current_version(self._resource)
        if _is_newer(_number(version), _number(current)):
            raise ExpiredError(f"the server is at version {current}, and was at {version} before")

    def _list(self) -> str:
        items, version = self._source.list_page(self._resource, self._field_selector)
        with self._lock:
            before = {key_of(obj): obj for obj in self._objects.all()}
            listed = {key_of(item): item for item in items}
            went_back = _is_newer(self._reached, _number(version))
            self._reached = _number(version)
            for key, known in before.items():
                if not went_back and _is_newer(_version(known), self._reached):
                    # Noted after the list was made, which tells nothing of it.
                    listed.pop(key, None)
                elif key not in listed:
                    self._objects.remove(key)
            for key, item in listed.items():
                item["metadata"].pop("managedFields", None)
                # A restored object can be of an older version than the one that was known.
                known_version = None if went_back else _version(before.get(key))
                if known_version is None or known_version != _version(item):
                    self._objects.put(item)
            after = {key_of(obj): obj for obj in self._objects.all()}
        self._synced.set()
        for key in before.keys() | after.keys():
            if before.get(key) is not after.get(key):
                self._on_change(*key)
        return version

    def _follow(self, version: str) -> Iterator[str]:
        """Apply events until the stream ends; yields the version reached after each."""
        watch = self._source.watch(self._resource, version, self._field_selector)
        with self._lock:
            self._watch = watch
        if self._stopping.is_set():
            watch.stop()
        try:
            for event in watch:
                kind, obj = event["type"], event["object"]
                if kind == "ERROR":
                    raise error_from(int(obj.get("code", 500)), obj, f"the watch of {self._resource.plural}")
                if kind != "BOOKMARK":
                    self._apply(kind, obj)
                yield obj["metadata"].get("resourceVersion") or version
        finally:
            watch.stop()
            with self._lock:
                self._watch = None

    def _apply(self, kind: str, obj: Object) -> None:
        key = key_of(obj)
        with self._lock:
            self._reached = _version(obj)
            if kind != "DELETED":
                obj["metadata"].pop("managedFields", None)
                self._put(obj)
            elif not _is_newer(_version(self._objects.get(key)), self._reached):
                self._objects.remove(key)
        self._on_change(*key)

    def _put(self, obj: Object) -> None:
        """Unless it is known, or something newer."""
        known, version = _version(self._objects.get(key_of(obj))), _version(obj)
        if known is None or version is None or version > known:
            self._objects.put(obj)


def _version(obj: Object | None) -> int | None:
    return _number(obj["metadata"].get("resourceVersion", "")) if obj else None


def _number(version: str) -> int | None:
    """Versions of one kind can be compared: they are the numbers of its changes (Kubernetes 1.35, KEP-5504).

    None for those of an aggregated API that says nothing, or something of its own.
    """
    return int(version) if version.isascii() and version.isdecimal() else None


def _is_newer(version: int | None, than: int | None) -> bool:
    """Whether it certainly is."""
    return version is not None and than is not None and version > than
