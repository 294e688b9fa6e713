"""What the Kubernetes API may refuse, as errors of ours. Translated in one place: `error_from`."""

import copy
import json
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from dvcr.errors import DvcrError

_LONGEST_RETRY_AFTER_S = 60
_MAY_PASS = (0, 400, 403, 408, 409, 422, 429)
"""Also what is forbidden or invalid: quotas are raised, roles given, policies (which say any of these) changed, and
nobody tells."""
_TOO_LARGE = "ResourceVersionTooLarge"


@dataclass(frozen=True)
class Cause:
    """One wrong field of an object that was refused."""

    field: str
    message: str


class ClusterError(DvcrError):
    """The Kubernetes API refused a request or did not answer; `status` is the HTTP status, 0 without an answer."""

    default_reason: ClassVar[str] = "ClusterUnavailable"

    def __init__(self, message: str, *, status: int = 0, reason: str | None = None, retry_after_s: float = 0) -> None:
        super().__init__(message, reason=reason, retryable=status in _MAY_PASS or status >= 500)
        self.status = status
        self.retry_after_s = retry_after_s
        """Before that the server does not want to be asked again."""

    def during(self, what: str) -> Self:
        """The same error, which says what it came of; a new one: others may hold this one too."""
        told = copy.copy(self)
        told.message = f"{what}: {self.message}"
        told.args = (told.message,)
        return told


class ConflictError(ClusterError):
    """The object changed since it was read: read it again and decide anew."""


class AlreadyExistsError(ClusterError):
    """An object of this name is there already."""


class MissingError(ClusterError):
    """There is no such object, or no such kind."""


class ExpiredError(ClusterError):
    """The server cannot go on from the resource version: list again.

    It is too old (410 Gone), or the server has never come as far (504 with the cause ResourceVersionTooLarge).
    """


class RefusedError(ClusterError):
    """The cluster does not allow it, by rights, quotas or policies (400, 403, 422): users have to know."""


class InvalidError(RefusedError):
    """The object breaks a rule; `causes` name the fields."""

    def __init__(
        self, message: str, *, status: int = 422, reason: str | None = None, causes: tuple[Cause, ...] = ()
    ) -> None:
        super().__init__(message, status=status, reason=reason)
        self.causes = causes


def concerns_users(error: DvcrError) -> bool:
    """Whether a status should tell of it: not of a conflict, nor of an API server that would not take the status.

    An InternalError (500) is mostly an admission webhook of somebody's that does not answer, and may take a status.
    """
    return not isinstance(error, ClusterError) or isinstance(error, RefusedError) or error.status == 500


def error_from(status: int, body: bytes | dict[str, Any], where: str, retry_after: str = "") -> ClusterError:
    """The error that an answer (a `Status` object, or whatever stands in its place) means.

    `retry_after` is the header of that name; its form as a date is not heeded.
    """
    answer: dict[str, Any] = body if isinstance(body, dict) else _status_object(body)
    message = str(answer.get("message") or f"{where} answered {status}")
    reason = str(answer.get("reason") or "") or None
    if status == 404:
        return MissingError(message, status=status, reason=reason or "NotFound")
    causes: list[dict[str, Any]] = (answer.get("details") or {}).get("causes") or []
    if status == 410 or any(cause.get("reason") == _TOO_LARGE for cause in causes):
        return ExpiredError(message, status=status, reason=reason or "Expired")
    if status == 409:
        kind = AlreadyExistsError if reason == "AlreadyExists" else ConflictError
        return kind(message, status=status, reason=reason or "Conflict")
    if status in (400, 422):
        return InvalidError(
            message,
            status=status,
            reason=reason or "Invalid",
            causes=tuple(Cause(str(c.get("field", "")), str(c.get("message", ""))) for c in causes),
        )
    if status == 403:
        return RefusedError(message, status=status, reason=reason or "Forbidden")
    retry_after_s = min(int(retry_after), _LONGEST_RETRY_AFTER_S) if retry_after.isdecimal() else 0
    return ClusterError(message, status=status, reason=reason, retry_after_s=retry_after_s)


def _status_object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        # A proxy in front of the API answers in its own words.
        return {"message": body[:200].decode(errors="replace").strip()}
    return answer if isinstance(answer, dict) else {}
