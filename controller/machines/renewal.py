"""New certificates for running machines, in time."""

from controller.api.resource import SECRET
from controller.machines.authority import MachineAuthority
from controller.machines.pod import encoded, is_ready
from controller.machines.visit import Flow, Visit


class Renew:
    """The step that replaces the certificate in the Secret of a running machine's pod when it is due."""

    def __init__(self, authority: MachineAuthority) -> None:
        self._authority = authority

    def __call__(self, visit: Visit) -> Flow:
        if visit.pod is not None and is_ready(visit.pod):
            name, namespace = visit.pod["metadata"]["name"], visit.machine.namespace
            secret = visit.cluster.get(SECRET, name, namespace)
            if secret is not None and self._authority.is_due(secret):
                files = encoded(self._authority.issue(visit.machine.uid))
                visit.cluster.patch(SECRET, name, {"data": files}, namespace)
        return Flow.ON
