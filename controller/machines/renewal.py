"""New certificates for running machines, in time."""

from controller.api.resource import POD, SECRET
from controller.machines.authority import MachineAuthority
from controller.machines.pod import RENEWAL_ANNOTATION, is_ready
from controller.machines.visit import Flow, Visit
from controller.pod_secret import encoded
from controller.runtime.errors import MissingError


class Renew:
    """The step that replaces the certificate in the Secret of a running machine's pod when it is due."""

    def __init__(self, authority: MachineAuthority) -> None:
        self._authority = authority

    def __call__(self, visit: Visit) -> Flow:
        pod = visit.pod
        if pod is None or not is_ready(pod):
            return Flow.ON
        metadata = pod["metadata"]
        if not self._authority.is_due((metadata.get("annotations") or {}).get(RENEWAL_ANNOTATION, "")):
            return Flow.ON
        annotations = {RENEWAL_ANNOTATION: self._authority.renewal()}
        files = encoded(self._authority.issue(visit.machine.uid))
        try:
            visit.cluster.patch(SECRET, metadata["name"], {"data": files}, metadata["namespace"])
        except MissingError:
            return Flow.ON  # the machine is being removed
        patch = {"metadata": {"uid": metadata["uid"], "annotations": annotations}}
        visit.pod = visit.cluster.patch(POD, metadata["name"], patch, metadata["namespace"])
        return Flow.ON
