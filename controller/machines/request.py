"""How an operation reaches its machine: an annotation on the machine, one at a time.

The operation writes it only while there is none (an update with the version it read), and removes it when the machine's
`status.power.operation` is the operation's UID: the effect is there. Whoever crashes in between does the same again.
"""

import json
from dataclasses import asdict, dataclass

from controller.api.operation import OperationType
from controller.api.resource import GROUP
from controller.runtime.index import Object

REQUEST_ANNOTATION = f"{GROUP}/operation"
MOVES = frozenset({OperationType.MIGRATE, OperationType.EVICT})
"""Operations that do not touch the power switch."""


@dataclass(frozen=True)
class PowerRequest:
    """What the machine is asked to do."""

    uid: str
    """Of the operation."""
    name: str
    type: OperationType
    force: bool
    pod: str
    """UID of the pod when the operation began; empty if there was none. A restart is one that replaced it."""


def read_request(machine: Object) -> PowerRequest | None:
    """The operation that the machine is asked to carry out."""
    text = (machine["metadata"].get("annotations") or {}).get(REQUEST_ANNOTATION)
    if not text:
        return None
    value = json.loads(text)
    return PowerRequest(**{**value, "type": OperationType(value["type"])})


def write_request(request: PowerRequest) -> str:
    """The annotation's value."""
    return json.dumps(asdict(request), sort_keys=True)
