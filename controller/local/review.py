"""What users ask about themselves, and others about them: `kubectl auth can-i`, `auth can-i --list`, `auth whoami`."""

from typing import Any

from controller.api.errors import bad_request
from controller.local.authentication import MASTERS, User
from controller.local.authorization import Action, is_allowed, rules
from controller.local.store import Image

SELF, OF_OTHERS, RULES, WHO = (
    "selfsubjectaccessreviews", "subjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews",
)  # fmt: skip
ABOUT_ONESELF = frozenset({SELF, RULES, WHO})
_AUTHORIZATION, _AUTHENTICATION = "authorization.k8s.io/v1", "authentication.k8s.io/v1"
_KINDS = {
    SELF: (_AUTHORIZATION, "SelfSubjectAccessReview"),
    OF_OTHERS: (_AUTHORIZATION, "SubjectAccessReview"),
    RULES: (_AUTHORIZATION, "SelfSubjectRulesReview"),
    WHO: (_AUTHENTICATION, "SelfSubjectReview"),
}
_EVERYTHING = ["*"]


def is_review(group: str, version: str, plural: str) -> bool:
    """Whether what is posted there is a review."""
    return plural in _KINDS and _KINDS[plural][0] == f"{group}/{version}"


def review(image: Image, user: User, plural: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The review with its answer. Raises StatusError 400 where it names no resource, or nobody."""
    spec = asked.get("spec") or {}
    if plural == WHO:
        status: dict[str, Any] = {"userInfo": {"username": user.name, "groups": list(user.groups)}}
    elif plural == RULES:
        status = _rules(image, user, spec.get("namespace") or "")
    else:
        status = {"allowed": is_allowed(image, _subject(spec) if plural == OF_OTHERS else user, _action(spec))}
    api_version, kind = _KINDS[plural]
    answer = {"kind": kind, "apiVersion": api_version, "metadata": {}, "status": status}
    return answer if plural == WHO else answer | {"spec": spec}


def _action(spec: dict[str, Any]) -> Action:
    wanted = spec.get("resourceAttributes")
    if not isinstance(wanted, dict):
        raise bad_request("spec.resourceAttributes is required; other paths are open to everybody who is known")
    parts = (wanted.get("resource") or "", wanted.get("subresource") or "")
    return Action(
        wanted.get("verb") or "",
        wanted.get("group") or "",
        "/".join(filter(None, parts)),
        wanted.get("namespace") or "",
        wanted.get("name") or "",
    )


def _rules(image: Image, user: User, namespace: str) -> dict[str, Any]:
    granted = [
        {"verbs": ["create"], "apiGroups": [_KINDS[each][0].partition("/")[0]], "resources": [each]}
        for each in (WHO, SELF, RULES)
    ]
    if MASTERS in user.groups:
        granted.insert(0, {"verbs": _EVERYTHING, "apiGroups": _EVERYTHING, "resources": _EVERYTHING})
    granted += [rule for rule in rules(image, user, namespace) if rule.get("resources")]
    # Other paths are open to everybody who is known.
    others = [{"verbs": ["get"], "nonResourceURLs": _EVERYTHING}]
    return {"resourceRules": granted, "nonResourceRules": others, "incomplete": False}


def _subject(spec: dict[str, Any]) -> User:
    name, groups = spec.get("user") or "", spec.get("groups") or []
    if not isinstance(name, str) or not isinstance(groups, list) or not (name or groups):
        raise bad_request("spec.user or spec.groups is required")
    return User(name, tuple(groups))
