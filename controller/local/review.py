"""SelfSubjectAccessReview, what `kubectl auth can-i` asks, and SubjectAccessReview, which asks about others."""

from typing import Any

from controller.api.errors import bad_request
from controller.local.authentication import User
from controller.local.authorization import Action, is_allowed
from controller.local.store import Image

SELF, OF_OTHERS = "selfsubjectaccessreviews", "subjectaccessreviews"
_GROUP, _VERSION = "authorization.k8s.io", "v1"
_KINDS = {SELF: "SelfSubjectAccessReview", OF_OTHERS: "SubjectAccessReview"}


def is_review(group: str, version: str, plural: str) -> bool:
    """Whether what is posted there is a review."""
    return (group, version) == (_GROUP, _VERSION) and plural in _KINDS


def review(image: Image, user: User, plural: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The review with its answer. Raises StatusError 400 where it names no resource, or nobody."""
    spec = asked.get("spec") or {}
    if plural == OF_OTHERS:
        user = _subject(spec)
    wanted = spec.get("resourceAttributes")
    if not isinstance(wanted, dict):
        raise bad_request("spec.resourceAttributes is required; other paths are open to everybody who is known")
    parts = (wanted.get("resource") or "", wanted.get("subresource") or "")
    action = Action(
        wanted.get("verb") or "",
        wanted.get("group") or "",
        "/".join(filter(None, parts)),
        wanted.get("namespace") or "",
        wanted.get("name") or "",
    )
    status = {"allowed": is_allowed(image, user, action)}
    return {
        "kind": _KINDS[plural],
        "apiVersion": f"{_GROUP}/{_VERSION}",
        "metadata": {},
        "spec": spec,
        "status": status,
    }


def _subject(spec: dict[str, Any]) -> User:
    name, groups = spec.get("user") or "", spec.get("groups") or []
    if not isinstance(name, str) or not isinstance(groups, list) or not (name or groups):
        raise bad_request("spec.user or spec.groups is required")
    return User(name, tuple(groups))
