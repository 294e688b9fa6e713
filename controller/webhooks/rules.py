"""What the webhooks refuse."""

from typing import Any

from controller.api import eviction
from controller.api.admission import refusals
from controller.api.errors import StatusError, invalid
from controller.api.resource import POD, Resource
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
        """An object of ours that is created or changed: 422 with the wrong fields."""

        def find(resource: Resource, name: str, namespace: str | None) -> dict[str, Any] | None:
            return self._cluster.get(resource, name, namespace)

        causes = refusals(request.object, request.old, find)
        return invalid(request.about, causes) if causes else None

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
