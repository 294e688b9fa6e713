"""Finding objects of a kind by what they say, without looking at all of them."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from controller.api.resource import Resource

log = structlog.get_logger(__name__)

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace (empty for cluster-scoped kinds) and name."""
Identity = tuple[Resource, Key]
"""Which object of all there are."""


@dataclass(frozen=True, eq=False)
class Index:
    """Which values an object is to be found by. A constant of the module that asks: each one made is another index."""

    resource: Resource
    values: Callable[[Object], Iterable[Hashable]]
    """Pure. An object without the fields in question has none."""

    def pick(self, objects: Iterable[Object], value: Hashable) -> list[Object]:
        """Those of `objects` that have the value, one by one: for whoever keeps no table."""
        return [obj for obj in objects if value in self.values(obj)]


def key_of(obj: Object) -> Key:
    """Namespace and name of an object."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def by_namespace(resource: Resource) -> Index:
    """The objects of each namespace."""
    return Index(resource, lambda obj: (key_of(obj)[0],))


class IndexedObjects:
    """Objects by key, and by every index that was ever asked for. Not thread-safe."""

    def __init__(self) -> None:
        self._objects: dict[Key, Object] = {}
        self._tables: dict[Index, dict[Hashable, dict[Key, None]]] = {}

    def get(self, key: Key) -> Object | None:
        return self._objects.get(key)

    def all(self) -> list[Object]:
        return list(self._objects.values())

    def find(self, index: Index, value: Hashable) -> list[Object]:
        """The objects that have the value."""
        table = self._tables.get(index)
        if table is None:
            table = self._tables[index] = {}
            for key, obj in self._objects.items():
                _enter(table, index, key, obj)
        return [self._objects[key] for key in table.get(value, ())]

    def put(self, obj: Object) -> None:
        """Have this in the place of what had its key."""
        key = key_of(obj)
        self.remove(key)
        self._objects[key] = obj
        for index, table in self._tables.items():
            _enter(table, index, key, obj)

    def remove(self, key: Key) -> None:
        """Forget the object. Idempotent."""
        old = self._objects.pop(key, None)
        if old is None:
            return
        for index, table in self._tables.items():
            for value in _values(index, old):
                keys = table.get(value)
                if keys is not None:
                    keys.pop(key, None)
                    if not keys:
                        del table[value]


def _enter(table: dict[Hashable, dict[Key, None]], index: Index, key: Key, obj: Object) -> None:
    for value in _values(index, obj):
        table.setdefault(value, {})[key] = None


def _values(index: Index, obj: Object) -> list[Hashable]:
    try:
        return list(index.values(obj))
    except Exception:  # a bug with one object must not end the work on all others
        log.exception("cannot index", kind=index.resource.kind, key=key_of(obj))
        return []
