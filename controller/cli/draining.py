"""`dvcr node drain`: no new pods for a node, and those that it has are evicted; its machines move to other nodes."""

import time
from collections.abc import Callable
from typing import Any, Protocol

from controller.api.resource import GROUP, MACHINE, NODE, POD
from controller.runtime.errors import ClusterError, MissingError
from controller.runtime.port import ClusterPort
from dvcr.errors import ResourceError

Object = dict[str, Any]
MACHINE_LABEL = f"vm.{GROUP}/name"
ASK_INTERVAL_S = 5.0
LOOK_INTERVAL_S = 0.5
_TOO_MANY_REQUESTS = 429


class DrainPort(ClusterPort, Protocol):
    """As `Cluster`, which says what the methods promise."""

    def create_in(self, resource: Any, name: str, namespace: str, subresource: str, obj: Object) -> Object: ...


def cordon(cluster: ClusterPort, node: str, *, unschedulable: bool) -> None:
    """Let the node take new pods, or no more. ResourceError if there is no such node."""
    try:
        cluster.patch(NODE, node, {"spec": {"unschedulable": unschedulable or None}})
    except MissingError as exc:
        raise ResourceError(f"there is no node {node!r}; `dvcr get nodes` shows them", reason="NotFound") from exc


class Drain:
    """Empties one node. `say` is told of each change; `force` powers machines off that cannot move."""

    def __init__(
        self,
        cluster: DrainPort,
        node: str,
        say: Callable[[str], None],
        *,
        force: bool,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._node = node
        self._say = say
        self._force = force
        self._sleep = sleep
        self._clock = clock
        self._asked: dict[str, float] = {}
        self._told: dict[str, str] = {}

    def run(self, timeout_s: float) -> None:
        """Return when the node has no pods. ResourceError if there are some in the end, with what holds them."""
        cordon(self._cluster, self._node, unschedulable=True)
        self._say(f"node/{self._node} takes no new pods")
        deadline = self._clock() + timeout_s
        known: dict[str, str] = {}
        while True:
            left = {pod["metadata"]["uid"]: pod for pod in self._pods()}
            for uid in known.keys() - left.keys():
                self._say(f"{known.pop(uid)} has left")
            known |= {uid: _what(pod) for uid, pod in left.items()}
            if not left:
                return
            hopeless = [self._evict(pod) for pod in left.values()]
            if all(hopeless):
                why = "; ".join(f"{_what(pod)}: {self._told[uid]}" for uid, pod in left.items())
                raise ResourceError(f"cannot move {why}. Power off what cannot move with --force", reason="CannotMove")
            if self._clock() > deadline:
                why = "; ".join(f"{_what(pod)}: {self._told.get(uid, 'stops')}" for uid, pod in left.items())
                raise ResourceError(f"not empty within {timeout_s:g} s: {why}", reason="Timeout")
            self._sleep(LOOK_INTERVAL_S)

    def _pods(self) -> list[Object]:
        pods = self._cluster.list(POD, field_selector=f"spec.nodeName={self._node}")
        return [pod for pod in pods if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")]

    def _evict(self, pod: Object) -> bool:
        """Ask for the eviction now and then; whether it is of no use."""
        metadata = pod["metadata"]
        name, namespace, uid = metadata["name"], metadata["namespace"], metadata["uid"]
        if "deletionTimestamp" in metadata:
            self._tell(pod, "stops")
            return False
        if self._clock() - self._asked.get(uid, float("-inf")) >= ASK_INTERVAL_S:
            eviction = {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": name, "namespace": namespace},
                "deleteOptions": {"preconditions": {"uid": uid}},
            }
            self._asked[uid] = self._clock()
            try:
                self._cluster.create_in(POD, name, namespace, "eviction", eviction)
            except MissingError:
                return False
            except ClusterError as exc:
                if exc.status != _TOO_MANY_REQUESTS:
                    raise
                self._told.setdefault(uid, exc.message)
            else:
                self._tell(pod, "stops")
                return False
        return self._follow(pod)

    def _follow(self, pod: Object) -> bool:
        """Tell how the machine's move goes; whether it cannot move."""
        machine_name = (pod["metadata"].get("labels") or {}).get(MACHINE_LABEL)
        machine = self._cluster.get(MACHINE, machine_name, pod["metadata"]["namespace"]) if machine_name else None
        status = (machine or {}).get("status") or {}
        if status.get("nodeName") not in (None, self._node):
            self._tell(pod, f"has moved to node {status['nodeName']}")
            return False
        conditions = {c["type"]: c for c in status.get("conditions") or ()}
        migrating, migratable = conditions.get("Migrating"), conditions.get("Migratable")
        if migrating is not None and migrating["status"] == "True":
            self._tell(pod, migrating["message"])
            return False
        if migratable is None or migratable["status"] == "True":
            if migrating is not None:
                self._tell(pod, migrating["message"])
            return False
        self._tell(pod, migratable["message"])
        if self._force:
            self._tell(pod, "is powered off")
            metadata = pod["metadata"]
            self._cluster.delete(POD, metadata["name"], metadata["namespace"], uid=metadata["uid"])
            return False
        return True

    def _tell(self, pod: Object, text: str) -> None:
        uid = pod["metadata"]["uid"]
        if self._told.get(uid) != text:
            self._told[uid] = text
            self._say(f"{_what(pod)}: {text}")


def _what(pod: Object) -> str:
    metadata = pod["metadata"]
    machine = (metadata.get("labels") or {}).get(MACHINE_LABEL)
    return f"{metadata['namespace']}/{f'vm/{machine}' if machine else metadata['name']}"
