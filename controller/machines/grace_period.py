"""The grace period of a machine that runs: it may change until the machine is stopped."""

from controller.api.resource import POD, SECRET
from controller.machines.pod import GRACE_PERIOD_ANNOTATION, is_finished, with_grace_period
from controller.machines.visit import Flow, Visit


def tell_grace_period(visit: Visit) -> Flow:
    """The step that has the launcher find the present grace period in its Secret when it is asked to stop."""
    pod, grace_period_s = visit.pod, visit.spec.termination_grace_period_seconds
    if pod is None or is_finished(pod):
        return Flow.ON
    metadata = pod["metadata"]
    if (metadata.get("annotations") or {}).get(GRACE_PERIOD_ANNOTATION) == str(grace_period_s):
        return Flow.ON
    secret = visit.cluster.get(SECRET, metadata["name"], metadata["namespace"])
    if secret is None:
        return Flow.ON
    visit.cluster.patch(
        SECRET, metadata["name"], {"data": with_grace_period(secret, grace_period_s)}, metadata["namespace"]
    )
    # Last: a change of the pod also makes the node look at the Secret, which it would do a minute later otherwise.
    annotations = {GRACE_PERIOD_ANNOTATION: str(grace_period_s)}
    patch = {"metadata": {"uid": metadata["uid"], "annotations": annotations}}
    visit.pod = visit.cluster.patch(POD, metadata["name"], patch, metadata["namespace"])
    return Flow.ON
