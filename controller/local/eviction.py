"""Evicting pods (policy/v1): deletion, unless the pod says that it is moved instead. No disruption budgets."""

from typing import Any

from controller.api import errors
from controller.api.errors import StatusError
from controller.api.eviction import MOVE, REQUESTED_ANNOTATION, STRATEGY_ANNOTATION
from controller.local import cascade, lifecycle
from controller.local.store import Transaction

GROUP, VERSION, KIND = "policy", "v1", "Eviction"


def evict(tx: Transaction, target: lifecycle.Target, eviction: dict[str, Any]) -> StatusError | None:
    """Delete the pod, or note that somebody wants it gone and say why it is not deleted.

    The refusal is returned, not raised, so that the note is kept. Raises StatusError as for a deletion.
    """
    stored = tx.image.get(target.key)
    if stored is None:
        raise errors.not_found(target.about)
    metadata = stored.obj["metadata"]
    annotations = metadata.get("annotations") or {}
    over = (stored.obj.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    if over or "deletionTimestamp" in metadata or annotations.get(STRATEGY_ANNOTATION) != MOVE:
        lifecycle.delete(tx, target, eviction.get("deleteOptions") or {})
        return None
    noted = {**annotations, REQUESTED_ANNOTATION: cascade.timestamp()}
    tx.put(target.key, {**stored.obj, "metadata": {**metadata, "annotations": noted}})
    return StatusError(
        429,
        "TooManyRequests",
        "Cannot evict pod: its virtual machine moves to another node first; the machine's conditions Migrating and "
        "Migratable tell how far it is",
        {"retryAfterSeconds": 5},
    )
