"""Which objects the change of another kind's object concerns, where no kind of ours knows it better."""

from collections.abc import Callable, Hashable, Iterable, Iterator

from controller.api.reference import named_in
from controller.api.resource import CLUSTER_IMAGE, CPU_MODEL, DISK, IMAGE, MACHINE, Resource
from controller.disks.claim import disk_name, image_name
from controller.machines.pod import machine_names
from controller.runtime.index import Index, Key, Object, key_of
from controller.runtime.port import ClusterReader
from controller.runtime.process import KeysOf


def disk_of_claim(key: Key, _cluster: ClusterReader) -> Iterable[Key]:
    """The disk that the claim's name tells."""
    name = disk_name(key[1])
    return [(key[0], name)] if name else []


def image_of_claim(key: Key, _cluster: ClusterReader) -> Iterable[Key]:
    """The image that the claim's name tells."""
    name = image_name(key[1])
    return [(key[0], name)] if name else []


def machines_of_pod(key: Key, _cluster: ClusterReader) -> Iterable[Key]:
    """The machines that the pod's name may tell."""
    return [(key[0], name) for name in machine_names(key[1])]


def referring(resource: Resource, named: Resource) -> KeysOf:
    """The objects of `resource` that name the changed one of `named` in their data source or block devices."""
    return _found(_REFERENCES[resource], lambda key: (named, key))


def deleted(resource: Resource) -> KeysOf:
    """The objects of `resource` that wait to be deleted."""
    return _found(_DELETED[resource], lambda _: True)


def every(resource: Resource) -> KeysOf:
    """All objects of `resource`: for kinds of which there are few."""
    return lambda _, cluster: [key_of(obj) for obj in cluster.list(resource)]


def _found(index: Index, value: Callable[[Key], Hashable]) -> KeysOf:
    return lambda key, cluster: [key_of(obj) for obj in cluster.find(index, value(key))]


def _references(obj: Object) -> Iterator[tuple[Resource, Key]]:
    namespace, spec = obj["metadata"].get("namespace", ""), obj.get("spec") or {}
    for place in (spec.get("dataSource") or {}, *(spec.get("blockDevices") or ())):
        yield from named_in(place, namespace)


def _is_deleted(obj: Object) -> Iterator[bool]:
    yield "deletionTimestamp" in obj["metadata"]


_REFERENCES = {resource: Index(resource, _references) for resource in (IMAGE, CLUSTER_IMAGE, DISK, MACHINE)}
_DELETED = {resource: Index(resource, _is_deleted) for resource in (IMAGE, CLUSTER_IMAGE, CPU_MODEL)}
