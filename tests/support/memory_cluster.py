"""A cluster in memory with what the node agent asks of one; see controller.runtime.cluster.Cluster."""

import copy
import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.api.resource import POD, Resource
from controller.runtime.errors import AlreadyExistsError, ConflictError, MissingError
from controller.runtime.informer import Informer

Object = dict[str, Any]
Objects = list[Object]


class MemoryCluster:
    """Keeps objects in a dict; merge patches, finalizers, graceful deletion and bindings work as on a server."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._version = 0
        self._lock = threading.RLock()
        self._watches: list[tuple[str, _Watch]] = []

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        with self._lock:
            return copy.deepcopy(self._objects.get((resource.plural, namespace or "", name)))

    def list(self, resource: Resource, namespace: str | None = None, *_: str) -> Objects:
        with self._lock:
            return [
                copy.deepcopy(obj) for (plural, space, _), obj in self._objects.items()
                if plural == resource.plural and namespace in (None, space)
            ]  # fmt: skip

    def create(self, resource: Resource, obj: Object, *, strict: bool = False) -> Object:
        obj = copy.deepcopy(obj)
        metadata = obj["metadata"]
        key = (resource.plural, metadata.get("namespace", ""), metadata["name"])
        with self._lock:
            if key in self._objects:
                raise AlreadyExistsError(f"{key} exists", status=409)
            metadata.setdefault("uid", str(uuid.uuid4()))
            if resource == POD:
                obj.setdefault("status", {"phase": "Pending"})
            return self._store(key, obj, "ADDED")

    def patch(
        self, resource: Resource, name: str, patch: Object, namespace: str | None = None, subresource: str = "",
        *, strict: bool = False,
    ) -> Object:  # fmt: skip
        key = (resource.plural, namespace or "", name)
        with self._lock:
            if key not in self._objects:
                raise MissingError(f"{key} not found", status=404)
            obj = copy.deepcopy(self._objects[key])
            for field in ("uid", "resourceVersion"):
                if patch.get("metadata", {}).get(field) not in (None, obj["metadata"][field]):
                    raise ConflictError(f"{key} is another object", status=409)
            _merge(obj, patch)
            return self._store(key, obj, "MODIFIED")

    def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *,
        grace_period_s: int | None = None, uid: str | None = None,
    ) -> None:  # fmt: skip
        key = (resource.plural, namespace or "", name)
        with self._lock:
            obj = copy.deepcopy(self._objects.get(key))
            if obj is None or uid not in (None, obj["metadata"]["uid"]):
                return
            grace_s = 0
            if resource == POD and obj["spec"].get("nodeName"):
                default_s = obj["spec"].get("terminationGracePeriodSeconds", 30)
                grace_s = default_s if grace_period_s is None else grace_period_s
            if grace_s or obj["metadata"].get("finalizers"):
                end = datetime.now(UTC) + timedelta(seconds=grace_s)
                obj["metadata"]["deletionTimestamp"] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
                obj["metadata"]["deletionGracePeriodSeconds"] = grace_s
                self._store(key, obj, "MODIFIED")
            else:
                self._store(key, obj, "DELETED")

    def create_in(self, resource: Resource, name: str, namespace: str, subresource: str, obj: Object) -> Object:
        assert subresource == "binding"
        return self.patch(resource, name, {"spec": {"nodeName": obj["target"]["name"]}}, namespace)

    def inform(
        self, resource: Resource, on_change: Callable[[str, str], None] | None = None, field_selector: str = ""
    ) -> Informer:
        informer = Informer(self, resource, on_change, field_selector)
        informer.start()
        return informer

    def list_page(self, resource: Resource, _field_selector: str) -> tuple[Objects, str]:
        with self._lock:
            return self.list(resource), str(self._version)

    def watch(self, resource: Resource, _resource_version: str, _field_selector: str) -> "_Watch":
        # Objects may be told twice: those of the list again, so that nothing between the two is lost.
        watch = _Watch()
        with self._lock:
            for obj in self.list(resource):
                watch.events.put({"type": "MODIFIED", "object": obj})
            self._watches.append((resource.plural, watch))
        return watch

    def _store(self, key: tuple[str, str, str], obj: Object, event: str) -> Object:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        metadata = obj["metadata"]
        gone = metadata.get("deletionTimestamp") and not metadata.get("finalizers") and key[0] != "pods"
        if event == "DELETED" or gone:
            self._objects.pop(key, None)
            event = "DELETED"
        else:
            self._objects[key] = obj
        for plural, watch in self._watches:
            if plural == key[0]:
                watch.events.put({"type": event, "object": copy.deepcopy(obj)})
        return copy.deepcopy(obj)


class _Watch:
    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Object | None] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[Object]:
        while (event := self.events.get()) is not None:
            yield event

    def stop(self) -> None:
        self.events.put(None)


def _merge(target: Object, patch: Object) -> None:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)
