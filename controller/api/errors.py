"""The API's errors: each becomes the `metav1.Status` that Kubernetes would answer with.

Reasons, codes and the wording of messages follow `k8s.io/apimachinery/pkg/api/errors`, since clients match on them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from dvcr.errors import DvcrError


@dataclass(frozen=True)
class FieldCause:
    """One thing that is wrong with an object: `field` is its path, `message` what is wrong, `reason` a CauseType."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"

    @classmethod
    def invalid(cls, field: str, value: object, detail: str) -> Self:
        return cls(field, f"Invalid value: {_shown(value)}: {detail}")

    @classmethod
    def required(cls, field: str, detail: str = "") -> Self:
        return cls(field, f"Required value: {detail}" if detail else "Required value", "FieldValueRequired")

    @classmethod
    def unsupported(cls, field: str, value: object, supported: Iterable[object]) -> Self:
        listed = ", ".join(_shown(each) for each in supported)
        return cls(field, f"Unsupported value: {_shown(value)}: supported values: {listed}", "FieldValueNotSupported")

    @classmethod
    def forbidden(cls, field: str, detail: str) -> Self:
        return cls(field, f"Forbidden: {detail}", "FieldValueForbidden")

    @classmethod
    def duplicate(cls, field: str, value: object) -> Self:
        return cls(field, f"Duplicate value: {_shown(value)}", "FieldValueDuplicate")

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class StatusError(DvcrError):
    """A request that the API refuses: HTTP `code`, Kubernetes `reason`, and the `details` of the Status."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message, reason=reason, retryable=code in (409, 429) or code >= 500)
        self.code = code
        self.details = details

    def status(self) -> dict[str, Any]:
        """The Status object."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            body["details"] = self.details
        return body


@dataclass(frozen=True)
class ObjectName:
    """What an error is about: a resource (`plural.group`), its kind and the object's name."""

    group: str
    plural: str
    kind: str
    name: str = ""

    @property
    def qualified_plural(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind

    def details(self, *, kind: bool = False) -> dict[str, Any]:
        named = {"name": self.name, "group": self.group, "kind": self.kind if kind else self.plural}
        return {key: value for key, value in named.items() if value}


def not_found(about: ObjectName) -> StatusError:
    return StatusError(404, "NotFound", f'{about.qualified_plural} "{about.name}" not found', about.details())


def unknown_path() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def already_exists(about: ObjectName) -> StatusError:
    return StatusError(409, "AlreadyExists", f'{about.qualified_plural} "{about.name}" already exists', about.details())


def conflict(about: ObjectName, why: str) -> StatusError:
    message = f'Operation cannot be fulfilled on {about.qualified_plural} "{about.name}": {why}'
    return StatusError(409, "Conflict", message, about.details())


def forbidden(about: ObjectName, why: str) -> StatusError:
    return StatusError(
        403, "Forbidden", f'{about.qualified_plural} "{about.name}" is forbidden: {why}', about.details()
    )


def invalid(about: ObjectName, causes: Sequence[FieldCause]) -> StatusError:
    """422 with one cause for each wrong field."""
    listed = str(causes[0]) if len(causes) == 1 else f"[{', '.join(map(str, causes))}]"
    details = about.details(kind=True)
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    return StatusError(422, "Invalid", f'{about.qualified_kind} "{about.name}" is invalid: {listed}', details)


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def expired(message: str) -> StatusError:
    """410: the client has to list again."""
    return StatusError(410, "Expired", message)


def method_not_allowed() -> StatusError:
    return StatusError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, dict):
        return '"object"'
    if isinstance(value, list):
        return '"array"'
    return str(value)
