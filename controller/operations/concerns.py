"""Which operations a change concerns."""

from collections.abc import Iterable, Iterator

from controller.api.resource import OPERATION
from controller.runtime.index import Index, Key, Object, key_of
from controller.runtime.port import ClusterReader


def operations_of_machine(key: Key, cluster: ClusterReader) -> Iterable[Key]:
    """All operations on the machine."""
    return [key_of(operation) for operation in cluster.find(BY_MACHINE, key)]


def operations_beside(key: Key, cluster: ClusterReader) -> Iterable[Key]:
    """The other operations on the machine of one that changed: they may wait for it."""
    operation = cluster.get(OPERATION, key[1], key[0])
    machines = [] if operation is None else _machine_of(operation)
    return [other for machine in machines for other in operations_of_machine(machine, cluster) if other != key]


def _machine_of(operation: Object) -> Iterator[Key]:
    yield operation["metadata"]["namespace"], operation["spec"]["virtualMachineName"]


BY_MACHINE = Index(OPERATION, _machine_of)
