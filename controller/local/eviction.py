"""Evicting pods (policy/v1): deletion, unless the pod says that it is moved instead.

Disruption budgets are kept and not heeded: the controller makes them for machines' pods, whose own word comes first
here, and cannot be away as a webhook can.
"""

from typing import Any

from controller.api import errors
from controller.api.errors import StatusError
from controller.api.eviction import REQUESTED_ANNOTATION, is_moved_instead, refusal
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
    if not is_moved_instead(stored.obj):
        lifecycle.delete(tx, target, eviction.get("deleteOptions") or {})
        return None
    metadata = stored.obj["metadata"]
    noted = {**metadata["annotations"], REQUESTED_ANNOTATION: cascade.timestamp()}
    tx.put(target.key, {**stored.obj, "metadata": {**metadata, "annotations": noted}})
    return refusal()
