"""How the eviction of a machine's pod becomes a move: annotations on the pod, by which API server and controller agree.

A machine's pod says that it is moved instead of deleted. The API server refuses its eviction for now (429), which every
client that drains a node takes as "ask again", and notes the time. The controller moves the machine while the last time
is recent: who stops asking has changed their mind.
"""

from datetime import timedelta
from typing import Any

from controller.api.errors import StatusError
from controller.api.resource import GROUP

STRATEGY_ANNOTATION = f"{GROUP}/eviction"
MOVE = "Move"
REQUESTED_ANNOTATION = f"{GROUP}/eviction-requested"
"""When the eviction was asked for last, RFC 3339."""
RECENT = timedelta(seconds=60)
"""Clients ask every 5 seconds."""


def is_moved_instead(pod: dict[str, Any]) -> bool:
    """Whether the pod's eviction is to become a move."""
    metadata = pod["metadata"]
    over = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    moves = (metadata.get("annotations") or {}).get(STRATEGY_ANNOTATION) == MOVE
    return moves and not over and "deletionTimestamp" not in metadata


def refusal() -> StatusError:
    """What is answered to whoever evicts such a pod: 429, ask again."""
    return StatusError(
        429,
        "TooManyRequests",
        "Cannot evict pod: its virtual machine moves to another node first; the machine's conditions Migrating and "
        "Migratable tell how far it is",
        {"retryAfterSeconds": 5},
    )
