"""Events: what `kubectl describe` shows at the end of an object. A convenience: the status says all that counts."""

import hashlib

import structlog

from controller.api.resource import EVENT
from controller.runtime.errors import AlreadyExistsError, ClusterError
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort

COMPONENT = "dvcr-controller"
_log = structlog.get_logger(__name__)


def record_event(
    cluster: ClusterPort, about: Object, reason: str, message: str, *, warning: bool = False, now: str
) -> None:
    """Tell what happened to an object; the same again only counts up, also after a restart of the controller.

    An event that cannot be recorded is logged, nothing more: a namespace that is being deleted takes none.
    """
    metadata = about["metadata"]
    namespace = metadata.get("namespace", "default")
    # The name says what the event tells, so that the API itself notices a repetition.
    told = "\0".join((metadata["uid"], reason, message))
    name = f"{metadata['name']}.{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {key: about[key] for key in ("apiVersion", "kind") if key in about}
        | {key: metadata[key] for key in ("name", "namespace", "uid") if key in metadata},
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        try:
            cluster.create(EVENT, event)
        except AlreadyExistsError:
            old = cluster.get(EVENT, name, namespace) or {}
            again = {"count": int(old.get("count", 0)) + 1, "lastTimestamp": now}
            cluster.patch(EVENT, name, again, namespace)
    except ClusterError as exc:
        _log.warning("cannot record an event", name=metadata["name"], reason=reason, error=exc.message)
