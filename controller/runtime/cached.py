"""A cluster whose kinds that are followed are read from memory."""

import time
from collections.abc import Callable, Hashable

from controller.api.resource import Resource
from controller.runtime.cluster import Cluster
from controller.runtime.errors import ClusterError
from controller.runtime.index import Index, Object
from controller.runtime.informer import Informer, OnChange

_STOP_TIMEOUT_S = 5

# `list` hides the built-in inside the class.
Objects = list[Object]


class CachedCluster:
    """ClusterPort over a cluster: what its informers know is answered by them, all else is asked and written as it is.

    What others write is seen a moment later, and then told; what is written through this is seen at once. Who read an
    object too early gets a ConflictError when writing it, or an AlreadyExistsError when making it: both mean another
    pass. Thread-safe.
    """

    def __init__(self, live: Cluster, may_write: Callable[[], bool] = lambda: True) -> None:
        """`may_write` is asked before each write: whoever was held up for long may have lost the right meanwhile."""
        self.live = live
        """The cluster itself."""
        self._may_write = may_write
        self._informers: dict[Resource, Informer] = {}

    def follow(self, resource: Resource, on_change: OnChange | None = None) -> Informer:
        """Keep all objects of the kind in memory, from the informer's first complete list on."""
        informer = self._informers[resource] = self.live.inform(resource, on_change)
        return informer

    def stop(self) -> None:
        """Follow nothing any more."""
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for informer in self._informers.values():
            informer.stop(0)
        for informer in self._informers.values():
            informer.stop(max(0.0, deadline - time.monotonic()))

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        informer = self._informer(resource)
        return informer.get(name, namespace) if informer else self.live.get(resource, name, namespace)

    def list(
        self, resource: Resource, namespace: str | None = None, label_selector: str = "", field_selector: str = ""
    ) -> Objects:
        informer = self._informer(resource)
        if informer is None or label_selector or field_selector:
            return self.live.list(resource, namespace, label_selector, field_selector)
        return informer.list(namespace)

    def find(self, index: Index, value: Hashable) -> Objects:
        informer = self._informer(index.resource)
        return informer.find(index, value) if informer else self.live.find(index, value)

    def create(self, resource: Resource, obj: Object) -> Object:
        return self._noted(resource, self._writable.create(resource, obj))

    def update(self, resource: Resource, obj: Object) -> Object:
        return self._noted(resource, self._writable.update(resource, obj))

    def update_status(self, resource: Resource, obj: Object) -> Object:
        return self._noted(resource, self._writable.update_status(resource, obj))

    def patch(
        self,
        resource: Resource,
        name: str,
        patch: Object | Objects,
        namespace: str | None = None,
        subresource: str = "",
    ) -> Object:
        return self._noted(resource, self._writable.patch(resource, name, patch, namespace, subresource))

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace_period_s: int | None = None,
        uid: str | None = None,
    ) -> None:
        self._writable.delete(resource, name, namespace, grace_period_s=grace_period_s, uid=uid)

    @property
    def _writable(self) -> Cluster:
        if not self._may_write():
            raise ClusterError("not written: this controller does not lead any more", reason="LeadershipLost")
        return self.live

    def _informer(self, resource: Resource) -> Informer | None:
        informer = self._informers.get(resource)
        return informer if informer and informer.synced else None

    def _noted(self, resource: Resource, obj: Object) -> Object:
        informer = self._informers.get(resource)
        if informer is not None:
            informer.note(obj)
        return obj
