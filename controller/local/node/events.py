"""Events about pods and claims: what `kubectl describe` shows at its end."""

import threading
import uuid
from typing import Any

import structlog

from controller.api.resource import EVENT
from controller.local.node.clock import timestamp
from controller.runtime.cluster import Cluster
from controller.runtime.errors import ClusterError, MissingError

_log = structlog.get_logger(__name__)
_REMEMBERED = 1000


class NodeEvents:
    """Records events; the same one again only counts up. An event that cannot be recorded is logged, nothing more."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self._cluster = cluster
        self._node = node
        self._known: dict[tuple[str, str, str], tuple[str, int]] = {}
        self._lock = threading.Lock()

    def record(self, obj: dict[str, Any], reason: str, message: str, *, warning: bool = False) -> None:
        """Tell what happened to an object."""
        metadata = obj["metadata"]
        namespace = metadata.get("namespace", "default")
        now = timestamp()
        with self._lock:
            key = (metadata["uid"], reason, message)
            name, count = self._known.pop(key, (f"{metadata['name']}.{uuid.uuid4().hex[:16]}", 0))
            self._known[key] = (name, count + 1)
            if len(self._known) > _REMEMBERED:
                self._known.pop(next(iter(self._known)))
        try:
            if count:
                self._cluster.patch(EVENT, name, {"count": count + 1, "lastTimestamp": now}, namespace)
                return
        except MissingError:
            pass
        except ClusterError as exc:
            _log.warning("cannot count an event", error=exc.message)
            return
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": obj.get("apiVersion", "v1"),
                "kind": obj.get("kind", ""),
                "name": metadata["name"],
                "namespace": metadata.get("namespace", ""),
                "uid": metadata["uid"],
            },
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message,
            "count": count + 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "node", "host": self._node},
            "reportingComponent": "node",
            "reportingInstance": self._node,
        }
        try:
            self._cluster.create(EVENT, event)
        except ClusterError as exc:
            _log.warning("cannot record an event", reason=reason, error=exc.message)
