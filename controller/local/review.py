"""SelfSubjectAccessReview: what `kubectl auth can-i` asks."""

from typing import Any

from controller.api.errors import bad_request
from controller.local.authentication import User
from controller.local.authorization import Action, is_allowed
from controller.local.store import Image

PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def review(image: Image, user: User, asked: dict[str, Any]) -> dict[str, Any]:
    """The review with its answer. Raises StatusError 400 where it names no resource."""
    spec = asked.get("spec") or {}
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
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {},
        "spec": spec,
        "status": status,
    }
