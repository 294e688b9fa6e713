"""A cluster in memory: the methods of `Cluster` that reconcilers use, with their promises."""

import copy
import itertools
import threading
from collections.abc import Hashable
from typing import Any

from controller.api.kinds import admit
from controller.api.resource import Resource
from controller.runtime.errors import AlreadyExistsError, Cause, ClusterError, ConflictError, InvalidError, MissingError
from controller.runtime.index import Index, Object

Objects = list[Object]


class MemoryCluster:
    """Optimistic locking, generations, the status subresource, finalizers and the owner cascade; `writes` counts, and
    `status_writes` those of statuses alone.

    Objects that are handed out are shared, as a cache shares them: whoever changes one fails the test at the next look.
    """

    def __init__(self) -> None:
        self.writes = 0
        self.status_writes = 0
        self.refusals: dict[Resource, ClusterError] = {}
        """What patches of a kind are answered with."""
        self.refused: dict[Resource, ClusterError] = {}
        """What the making of objects of a kind is answered with."""
        self.locked: dict[Resource, ClusterError] = {}
        """What changes and deletions of objects of a kind are answered with; not those of statuses alone."""
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._handed_out: dict[str, tuple[Object, Object]] = {}
        """By uid: each object as it was handed out last, and how it was then."""
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        with self._lock:
            obj = self._objects.get((resource.plural, namespace or "", name))
            return self._share(obj) if obj is not None else None

    def list(
        self, resource: Resource, namespace: str | None = None, label_selector: str = "", field_selector: str = ""
    ) -> Objects:
        assert label_selector == field_selector == "", "not needed so far"
        with self._lock:
            return [
                self._share(obj)
                for (plural, space, _), obj in self._objects.items()
                if plural == resource.plural and namespace in (None, space)
            ]

    def find(self, index: Index, value: Hashable) -> Objects:
        return index.pick(self.list(index.resource), value)

    def create(self, resource: Resource, obj: Object) -> Object:
        with self._lock:
            obj = copy.deepcopy(obj)
            metadata = obj["metadata"]
            key = (resource.plural, metadata.get("namespace", ""), metadata["name"])
            if resource in self.refused:
                raise self.refused[resource]
            if key in self._objects:
                raise AlreadyExistsError(f"{key} exists", status=409)
            self._admit(obj, None)
            metadata |= {"uid": f"uid-{next(self._numbers)}", "generation": 1}
            metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
            return self._store(key, obj)

    def update(self, resource: Resource, obj: Object) -> Object:
        with self._lock:
            if resource in self.locked:
                raise self.locked[resource]
            key, current = self._current(resource, obj)
            new = copy.deepcopy(obj)
            new["status"] = current.get("status")
            self._admit(new, current)
            if new.get("spec") != current.get("spec"):
                new["metadata"]["generation"] += 1
            return self._store(key, new)

    def update_status(self, resource: Resource, obj: Object) -> Object:
        with self._lock:
            key, current = self._current(resource, obj)
            self.status_writes += 1
            return self._store(key, {**current, "status": copy.deepcopy(obj["status"])})

    def patch(
        self,
        resource: Resource,
        name: str,
        patch: Object | Objects,
        namespace: str | None = None,
        subresource: str = "",
    ) -> Object:
        assert isinstance(patch, dict), "a JSON merge patch"
        if resource in self.refusals:
            raise self.refusals[resource]
        with self._lock:
            obj = self.get(resource, name, namespace)
            if obj is None:
                raise MissingError(f"no {resource.kind} {name}", status=404)
            merged = _merge(obj, patch)
            return self.update_status(resource, merged) if subresource == "status" else self.update(resource, merged)

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace_period_s: int | None = None,
        uid: str | None = None,
    ) -> None:
        if resource in self.locked:
            raise self.locked[resource]
        with self._lock:
            key = (resource.plural, namespace or "", name)
            obj = self._objects.get(key)
            if obj is None or uid not in (None, obj["metadata"]["uid"]):
                return
            new = copy.deepcopy(obj)
            if "deletionTimestamp" not in new["metadata"]:
                new["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z"}
                new["metadata"]["generation"] += 1
            # Until it is over, whatever is written to the pod.
            new["metadata"].pop("deletionGracePeriodSeconds", None)
            if resource.plural == "pods" and grace_period_s != 0 and "nodeName" in obj["spec"]:
                asked_s = (
                    obj["spec"].get("terminationGracePeriodSeconds", 30) if grace_period_s is None else grace_period_s
                )
                left_s = min(asked_s, obj["metadata"].get("deletionGracePeriodSeconds", asked_s))
                new["metadata"]["deletionGracePeriodSeconds"] = left_s
            self._store(key, new)

    def set_status(self, resource: Resource, name: str, namespace: str | None, **status: Any) -> None:
        """What another part (node agent, provisioner) would tell."""
        obj = self.get(resource, name, namespace)
        assert obj is not None
        self.update_status(resource, {**obj, "status": {**(obj.get("status") or {}), **status}})
        self.writes -= 1

    def restore(self, resource: Resource, obj: Object) -> None:
        """Put back an object that is gone, as it was."""
        metadata = obj["metadata"]
        self._objects[resource.plural, metadata.get("namespace", ""), metadata["name"]] = copy.deepcopy(obj)

    def _share(self, obj: Object) -> Object:
        for shared, was in self._handed_out.values():
            assert shared == was, "somebody changed an object that the cluster handed out"
        self._handed_out[obj["metadata"]["uid"]] = obj, copy.deepcopy(obj)
        return obj

    def _current(self, resource: Resource, obj: Object) -> tuple[tuple[str, str, str], Object]:
        metadata = obj["metadata"]
        key = (resource.plural, metadata.get("namespace", ""), metadata["name"])
        current = self._objects.get(key)
        if current is None:
            raise MissingError(f"no {key}", status=404)
        if metadata.get("resourceVersion") not in (None, current["metadata"]["resourceVersion"]):
            raise ConflictError(f"{key} changed", status=409)
        return key, copy.deepcopy(current)

    def _store(self, key: tuple[str, str, str], obj: Object) -> Object:
        self.writes += 1
        metadata = obj["metadata"]
        held = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
        if "deletionTimestamp" in metadata and not held:
            self._objects.pop(key, None)
            self._cascade(metadata["uid"])
            return obj
        metadata["resourceVersion"] = str(next(self._numbers))
        self._objects[key] = obj
        return copy.deepcopy(obj)

    def _cascade(self, uid: str) -> None:
        for key, obj in list(self._objects.items()):
            if any(owner["uid"] == uid for owner in obj["metadata"].get("ownerReferences", [])):
                del self._objects[key]

    def _admit(self, obj: Object, old: Object | None) -> None:
        errors = admit(obj, old)
        if errors:
            causes = tuple(Cause(error.field, error.message) for error in errors)
            raise InvalidError(
                "; ".join(f"{c.field}: {c.message}" for c in causes), status=422, reason=None, causes=causes
            )


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged
