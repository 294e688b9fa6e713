"""AdmissionReview: how an API server asks whether a request may go on (admission.k8s.io/v1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from controller.api.errors import ObjectName, StatusError, bad_request

API_VERSION, KIND = "admission.k8s.io/v1", "AdmissionReview"


@dataclass(frozen=True)
class AdmissionRequest:
    """What is to be done."""

    uid: str
    about: ObjectName
    namespace: str | None
    object: dict[str, Any]
    old: dict[str, Any] | None
    dry_run: bool
    user: dict[str, Any]
    """Who asks, as authentication.k8s.io/v1 UserInfo."""

    @classmethod
    def read(cls, review: Any) -> Self:
        """Raises StatusError 400 for what is no review that asks."""
        try:
            if (review["apiVersion"], review["kind"]) != (API_VERSION, KIND):
                raise bad_request(f"expects an {KIND} of {API_VERSION}")
            asked = review["request"]
            resource, kind = asked["resource"], asked["kind"]
            return cls(
                asked["uid"],
                ObjectName(resource["group"], resource["resource"], kind["kind"], asked.get("name") or ""),
                asked.get("namespace") or None,
                asked.get("object") or {},
                asked.get("oldObject") or None,
                bool(asked.get("dryRun")),
                asked.get("userInfo") or {},
            )
        except (KeyError, TypeError, AttributeError) as exc:
            raise bad_request(f"the {KIND} cannot be read: {exc!r}") from exc


def answer(review: Any, judge: Callable[[AdmissionRequest], StatusError | None]) -> dict[str, Any]:
    """The review with its answer: refused with what `judge` returns, else allowed. Raises as `AdmissionRequest`."""
    request = AdmissionRequest.read(review)
    refused = judge(request)
    response: dict[str, Any] = {"uid": request.uid, "allowed": refused is None}
    if refused is not None:
        response["status"] = refused.status()
    return {"apiVersion": API_VERSION, "kind": KIND, "response": response}
