"""What goes with an object that goes: finalizers and grace, dependents, the content of namespaces and of CRDs.

All of it happens in the transaction of the deletion, so a crash leaves no orphan and nothing has to be collected later.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.local.definition import CRD_RESOURCE
from controller.local.store import Key, Stored, Transaction

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
PODS = "pods"
NAMESPACES = "namespaces"
EVENTS = "events"
EVENT_TTL = timedelta(hours=1)
"""How long an event is kept after it was told last, as by Kubernetes' API server."""
_DEFAULT_GRACE_S = 30


def timestamp(at: datetime | None = None) -> str:
    """A time as the API writes it."""
    return (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


def begin_delete(
    tx: Transaction, stored: Stored, *, policy: str = "Background", grace_period_s: int | None = None
) -> Stored | None:
    """Delete an object, or mark it if something has to happen first; returns the marked object, None if it is gone."""
    metadata = dict(stored.obj["metadata"])
    obj = {**stored.obj, "metadata": metadata}
    grace_s = _grace_s(stored, grace_period_s)
    finalizers = list(metadata.get("finalizers") or ())
    if policy == "Foreground" and tx.image.dependents(stored.uid) and FOREGROUND not in finalizers:
        finalizers.append(FOREGROUND)
    if policy == "Orphan":
        for dependent in tx.image.dependents(stored.uid):
            _disown(tx, dependent, stored.uid)
    content = _content(tx, stored)
    if not (finalizers or grace_s or content):
        _remove(tx, stored)
        return None
    if finalizers:
        metadata["finalizers"] = finalizers
    deleting = "deletionTimestamp" in metadata
    if not deleting or grace_s < metadata.get("deletionGracePeriodSeconds", 0):
        metadata["deletionTimestamp"] = timestamp(datetime.now(UTC) + timedelta(seconds=grace_s))
        metadata["deletionGracePeriodSeconds"] = grace_s
    if not deleting and "generation" in metadata:
        metadata["generation"] += 1
    if stored.key.resource == NAMESPACES:
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
    if obj != stored.obj:
        stored = tx.put(stored.key, obj)
    if FOREGROUND in finalizers:
        for dependent in tx.image.dependents(stored.uid):
            _delete_if_unowned(tx, dependent, stored.uid, policy="Foreground")
    for each in content:
        current = tx.image.get(each.key)
        if current is not None and "deletionTimestamp" not in current.obj["metadata"]:
            begin_delete(tx, current)
    return settle(tx, stored.key)


def settle(tx: Transaction, key: Key) -> Stored | None:
    """Remove an object that is marked and has nothing left to wait for; returns what is there afterwards."""
    stored = tx.image.get(key)
    if stored is None or "deletionTimestamp" not in stored.obj["metadata"]:
        return stored
    metadata = stored.obj["metadata"]
    finalizers = metadata.get("finalizers") or []
    if FOREGROUND in finalizers and not _blocking(tx, stored):
        finalizers = [each for each in finalizers if each != FOREGROUND]
        stored = tx.put(key, {**stored.obj, "metadata": {**metadata, "finalizers": finalizers}})
    if finalizers or metadata.get("deletionGracePeriodSeconds") or _content(tx, stored):
        return stored
    _remove(tx, stored)
    return None


def collect_if_orphan(tx: Transaction, stored: Stored) -> None:
    """Delete an object whose owners are all gone already."""
    owners = stored.owner_uids
    if owners and not any(tx.image.by_uid(uid) for uid in owners):
        begin_delete(tx, stored)


def expire_events(tx: Transaction, now: datetime) -> None:
    """Remove the events that nobody needs any more."""
    oldest = timestamp(now - EVENT_TTL)
    for stored in tx.image.of(EVENTS):
        told = stored.obj.get("lastTimestamp") or stored.obj["metadata"]["creationTimestamp"]
        # Times as the API writes them sort as text.
        if told < oldest:
            tx.remove(stored.key)


def _remove(tx: Transaction, stored: Stored) -> None:
    tx.remove(stored.key)
    for dependent in tx.image.dependents(stored.uid):
        _delete_if_unowned(tx, dependent, stored.uid, policy="Background")
    # Whoever waited for this object to go: an owner, its namespace, its definition.
    waiting = [owner.key for uid in stored.owner_uids if (owner := tx.image.by_uid(uid)) is not None]
    if stored.key.namespace:
        waiting.append(Key(NAMESPACES, "", stored.key.namespace))
    for key in (*waiting, Key(CRD_RESOURCE, "", stored.key.resource)):
        settle(tx, key)


def _grace_s(stored: Stored, asked_s: int | None) -> int:
    # Only a pod that a node runs needs time to stop.
    spec, status = stored.obj.get("spec") or {}, stored.obj.get("status") or {}
    if stored.key.resource != PODS or not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    return int(spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_S) if asked_s is None else asked_s)


def _content(tx: Transaction, stored: Stored) -> Sequence[Stored]:
    if stored.key.resource == NAMESPACES:
        return tx.image.in_namespace(stored.key.name)
    if stored.key.resource == CRD_RESOURCE:
        return tx.image.of(stored.key.name)
    return ()


def _blocking(tx: Transaction, owner: Stored) -> bool:
    return any(
        reference["uid"] == owner.uid and reference.get("blockOwnerDeletion")
        for dependent in tx.image.dependents(owner.uid)
        for reference in dependent.obj["metadata"]["ownerReferences"]
    )


def _delete_if_unowned(tx: Transaction, dependent: Stored, gone_uid: str, *, policy: str) -> None:
    current = tx.image.get(dependent.key)
    if current is None:
        return
    others = [tx.image.by_uid(uid) for uid in current.owner_uids - {gone_uid}]
    if any(each is not None and "deletionTimestamp" not in each.obj["metadata"] for each in others):
        _disown(tx, current, gone_uid)
    elif "deletionTimestamp" not in current.obj["metadata"]:
        begin_delete(tx, current, policy=policy)


def _disown(tx: Transaction, dependent: Stored, uid: str) -> None:
    metadata: dict[str, Any] = dict(dependent.obj["metadata"])
    metadata["ownerReferences"] = [each for each in metadata["ownerReferences"] if each["uid"] != uid]
    if not metadata["ownerReferences"]:
        del metadata["ownerReferences"]
    tx.put(dependent.key, {**dependent.obj, "metadata": metadata})
