"""The controller as a whole: informers that name keys, one loop for each kind, resync, and the order of stopping."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from controller.api.resource import Resource
from controller.runtime.cached import CachedCluster
from controller.runtime.controller import Controller, Reconciler
from controller.runtime.index import Key
from controller.runtime.informer import Informer
from controller.runtime.port import ClusterReader
from dvcr.errors import DvcrError

_log = structlog.get_logger(__name__)

SYNC_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
_LOOK_S = 0.05

KeysOf = Callable[[Key, ClusterReader], Iterable[Key]]
"""From the key of a changed object (and what is known of all watched kinds) to the keys that it concerns."""


@dataclass(frozen=True)
class Loop:
    """A kind, what reconciles it, and which other kinds concern it."""

    resource: Resource
    reconciler: Reconciler
    triggers: tuple[tuple[Resource, KeysOf], ...] = ()
    reads: tuple[Resource, ...] = ()
    """Kinds whose changes concern nothing by themselves, but which are read often."""


class ControllerProcess:
    """Runs loops until it is stopped."""

    def __init__(self, cluster: CachedCluster, loops: Iterable[Loop], *, workers: int, resync_s: float) -> None:
        self._cluster = cluster
        self._loops = tuple(loops)
        self._resync_s = resync_s
        self._controllers = {
            loop.resource: Controller(loop.resource.kind, loop.reconciler, workers=workers) for loop in self._loops
        }
        self._informers: dict[Resource, Informer] = {}
        self._synced = False

    def run(self, stopping: threading.Event, on_ready: Callable[[], None] = lambda: None) -> None:
        """Reconcile until `stopping` is set. DvcrError if the caches cannot be filled in time."""
        watched = {loop.resource for loop in self._loops} | {r for loop in self._loops for r, _ in loop.triggers}
        watched |= {resource for loop in self._loops for resource in loop.reads}
        try:
            for resource in watched:
                self._informers[resource] = self._cluster.follow(resource, self._listener(resource))
            if not self._wait_synced(stopping):
                return
            self._synced = True
            for controller in self._controllers.values():
                controller.start()
            on_ready()
            while not stopping.wait(self._resync_s):
                self._resync()
        finally:
            for controller in self._controllers.values():
                controller.stop()
            deadline = time.monotonic() + STOP_TIMEOUT_S
            for controller in self._controllers.values():
                if not controller.join(max(0.0, deadline - time.monotonic())):
                    _log.error("a pass goes on", controller=controller.name, waited_s=STOP_TIMEOUT_S)
            # Only now: a pass that is not over yet reads on.
            self._cluster.stop()

    @property
    def idle(self) -> bool:
        """Whether no pass is under way."""
        return all(controller.idle for controller in self._controllers.values())

    def _wait_synced(self, stopping: threading.Event) -> bool:
        """Whether everything is known; False where `stopping` was set before it was."""
        deadline = time.monotonic() + SYNC_TIMEOUT_S
        while missing := [resource for resource, informer in self._informers.items() if not informer.synced]:
            if stopping.wait(_LOOK_S):
                return False
            if time.monotonic() > deadline:
                names = ", ".join(sorted(resource.plural for resource in missing))
                message = f"no list of {names} from {self._cluster.live.server} within {SYNC_TIMEOUT_S} s"
                raise DvcrError(message, reason="ClusterUnavailable")
        return True

    def _resync(self) -> None:
        for resource, controller in self._controllers.items():
            for obj in self._informers[resource].list():
                controller.enqueue(obj["metadata"].get("namespace", ""), obj["metadata"]["name"])

    def _listener(self, resource: Resource) -> Callable[[str, str], None]:
        own = self._controllers.get(resource)
        concerned = [
            (self._controllers[loop.resource], keys_of)
            for loop in self._loops
            for trigger, keys_of in loop.triggers
            if trigger == resource
        ]

        def changed(namespace: str, name: str) -> None:
            if own is not None:
                own.enqueue(namespace, name)
            # Before everything is known, every object waits for its first pass anyway.
            for controller, keys_of in concerned if self._synced else ():
                for key in keys_of((namespace, name), self._cluster):
                    controller.enqueue(*key)

        return changed
