"""What reconcilers need of a cluster."""

from collections.abc import Hashable
from typing import Protocol

from controller.api.resource import Resource
from controller.runtime.index import Index, Object

# `list` hides the built-in inside the class.
Objects = list[Object]


class ClusterReader(Protocol):
    """Objects as they are known: shared with whoever else asks, so copy one before changing it."""

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None: ...

    def list(
        self, resource: Resource, namespace: str | None = None, label_selector: str = "", field_selector: str = ""
    ) -> Objects: ...

    def find(self, index: Index, value: Hashable) -> Objects:
        """The objects of the index's kind that have the value, in all namespaces."""
        ...


class ClusterPort(ClusterReader, Protocol):
    """As `Cluster`, which says what the methods promise."""

    def create(self, resource: Resource, obj: Object) -> Object: ...

    def update(self, resource: Resource, obj: Object) -> Object: ...

    def update_status(self, resource: Resource, obj: Object) -> Object: ...

    def patch(
        self,
        resource: Resource,
        name: str,
        patch: Object | Objects,
        namespace: str | None = None,
        subresource: str = "",
    ) -> Object: ...

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace_period_s: int | None = None,
        uid: str | None = None,
    ) -> None: ...
