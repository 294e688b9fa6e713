"""The labels of a machine, on its pod: by them Services and network policies find it."""

import json

from controller.api.resource import POD
from controller.machines.pod import LABELS_ANNOTATION, pod_labels
from controller.machines.visit import Flow, Visit


def carry_labels(visit: Visit) -> Flow:
    """The step that gives the pod the machine's present labels; those that others gave the pod stay."""
    pod = visit.pod
    if pod is None:
        return Flow.ON
    metadata = pod["metadata"]
    has, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    wanted = pod_labels(visit.machine.obj["metadata"])
    gone = set(json.loads(annotations.get(LABELS_ANNOTATION, "[]"))) - wanted.keys()
    noted = json.dumps(sorted(wanted))
    if wanted.items() <= has.items() and not gone & has.keys() and annotations.get(LABELS_ANNOTATION) == noted:
        return Flow.ON
    labels = wanted | dict.fromkeys(gone)
    patch = {"metadata": {"uid": metadata["uid"], "labels": labels, "annotations": {LABELS_ANNOTATION: noted}}}
    visit.pod = visit.cluster.patch(POD, metadata["name"], patch, metadata["namespace"])
    return Flow.ON
