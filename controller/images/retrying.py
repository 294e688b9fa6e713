"""The condition that says whether a Failed resource's import starts anew by itself.

It is kept in the resource: the job board, which also knows, may lose what it knows.
"""

from typing import Any

from controller.api.model import Condition
from controller.images.importing import ImportOutcome, ImportState
from controller.runtime.conditions import find_condition
from controller.runtime.subject import Subject

RETRYING = "Retrying"


def is_retrying(conditions: list[Condition]) -> bool:
    """Whether the import that failed is started anew after a while."""
    condition = find_condition(conditions, RETRYING)
    return condition is not None and condition.status == "True"


def tell_retrying(subject: Subject[Any], outcome: ImportOutcome) -> None:
    """Set the condition of a resource whose import failed for a cause that may go away, or had."""
    if outcome.state is ImportState.FAILED and outcome.again_s is not None:
        subject.condition(RETRYING, True, outcome.reason, outcome.message)
    elif is_retrying(subject.status.conditions):
        subject.condition(RETRYING, False, outcome.reason, outcome.message)
