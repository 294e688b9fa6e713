"""What the webhooks refuse."""

from typing import Any

from controller.api import eviction
from controller.api.admission import refusals
from controller.api.errors import StatusError, invalid
from controller.api.resource import POD, SUBJECT_ACCESS_REVIEW, Resource
from controller.api.rights import Right, missing, rights_needed
from controller.runtime.conditions import Clock, utc_now, write_time
from controller.runtime.errors import MissingError
from controller.runtime.port import ClusterPort
from controller.webhooks.review import AdmissionRequest


class Rules:
    """The rules over one cluster. Its methods block; they raise DvcrError where the cluster does not answer."""

    def __init__(self, cluster: ClusterPort, clock: Clock = utc_now) -> None:
        self._cluster = cluster
        self._clock = clock

    def validate(self, request: AdmissionRequest) -> StatusError | None:
        """An object of ours that is created or changed: 422 with the wrong fields, 403 where it takes what is not the
        user's from another namespace."""

        def find(resource: Resource, name: str, namespace: str | None) -> dict[str, Any] | None:
            return self._cluster.get(resource, name, namespace)

        causes = refusals(request.object, request.old, find)
        if causes:
            return invalid(request.about, causes)
        for right in rights_needed(request.object, request.old):
            if not self._may(request.user, right):
                return missing(request.about, request.user.get("username", ""), right)
        return None

    def evict(self, request: AdmissionRequest) -> StatusError | None:
        """A pod that is evicted: 429 where its machine moves instead, which the pod's annotation then asks for."""
        pod = self._cluster.get(POD, request.about.name, request.namespace)
        if pod is None or not eviction.is_moved_instead(pod):
            return None
        if not request.dry_run:
            asked = {eviction.REQUESTED_ANNOTATION: write_time(self._clock())}
            try:
                self._cluster.patch(POD, request.about.name, {"metadata": {"annotations": asked}}, request.namespace)
            except MissingError:
                return None  # it has just gone
        return eviction.refusal()

    def _may(self, user: dict[str, Any], right: Right) -> bool:
        resource, _, subresource = right.resource.partition("/")
        attributes = {
            "verb": right.verb,
            "group": right.group,
            "resource": resource,
            "subresource": subresource,
            "namespace": right.namespace,
            "name": right.name,
        }
        spec = {"user": user.get("username", ""), "resourceAttributes": attributes}
        spec |= {key: user[key] for key in ("uid", "groups", "extra") if key in user}
        review = {"apiVersion": SUBJECT_ACCESS_REVIEW.api_version, "kind": SUBJECT_ACCESS_REVIEW.kind, "spec": spec}
        answer = self._cluster.create(SUBJECT_ACCESS_REVIEW, {**review, "metadata": {}})
        return bool(answer["status"]["allowed"])
