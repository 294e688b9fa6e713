"""`dvcr apply`: make the server's object what a manifest says, and leave alone what it does not mention."""

import copy
import json
from typing import Any

from controller.api.resource import Resource
from controller.runtime.cluster import Cluster
from controller.runtime.errors import AlreadyExistsError, InvalidError
from dvcr.errors import ResourceError

Object = dict[str, Any]

# kubectl's, so that both can be used on the same object.
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def apply(cluster: Cluster, resource: Resource, manifest: Object) -> str:
    """Create or change the object; returns `created`, `configured` or `unchanged`. Unknown fields are refused.

    Raises ResourceError naming the wrong fields.
    """
    metadata = manifest["metadata"]
    stated = _annotated(manifest)
    try:
        live = cluster.get(resource, metadata["name"], metadata.get("namespace"))
        if live is None:
            try:
                cluster.create(resource, stated, strict=True)
                return "created"
            except AlreadyExistsError:
                live = cluster.get(resource, metadata["name"], metadata.get("namespace")) or {}
        patch = three_way(last_applied(live), stated, live)
        if not patch:
            return "unchanged"
        changed = cluster.patch(resource, metadata["name"], patch, metadata.get("namespace"), strict=True)
    except InvalidError as exc:
        raise refusal(exc) from exc
    same = changed["metadata"].get("resourceVersion") == live["metadata"].get("resourceVersion")
    return "unchanged" if same else "configured"


def refusal(error: InvalidError) -> ResourceError:
    """What the server refused, in one line with the fields' paths."""
    wrong = "; ".join(f"{cause.field}: {cause.message}" if cause.field else cause.message for cause in error.causes)
    return ResourceError(wrong or error.message, reason=error.reason)


def last_applied(live: Object) -> Object:
    """The manifest that the object was made or changed from the last time; empty if nobody noted it."""
    text = ((live.get("metadata") or {}).get("annotations") or {}).get(LAST_APPLIED)
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def three_way(last: Object, stated: Object, live: Object) -> Object:
    """The JSON merge patch that sets what is stated and removes what was stated last time and is no longer."""
    patch: Object = {}
    for key, value in stated.items():
        present = live.get(key)
        if isinstance(value, dict) and isinstance(present, dict):
            before = last.get(key)
            inner = three_way(before if isinstance(before, dict) else {}, value, present)
            if inner:
                patch[key] = inner
        elif present != value and not (value is None and key not in live):
            patch[key] = value
    for key in last:
        if key not in stated and key in live:
            patch[key] = None
    return patch


def _annotated(manifest: Object) -> Object:
    stated = copy.deepcopy(manifest)
    stated.pop("status", None)
    annotations = dict(stated["metadata"].get("annotations") or {})
    annotations.pop(LAST_APPLIED, None)
    noted = copy.deepcopy(stated)
    noted["metadata"]["annotations"] = annotations
    stated["metadata"]["annotations"] = {**annotations, LAST_APPLIED: json.dumps(noted, separators=(",", ":")) + "\n"}
    return stated
