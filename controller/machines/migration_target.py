"""The pod on another node that takes a machine in: a copy of the one that it runs in. Pure."""

import copy

from controller.api.eviction import STRATEGY_ANNOTATION
from controller.api.machine import MachineSpec
from controller.api.pod_claims import additional_claims, released_claims
from controller.launcher.spec import CONTAINER_NAME
from controller.machines.pod import (
    APPLIED_ANNOTATION,
    LABELS_ANNOTATION,
    MOVE_LABEL,
    RENEWAL_ANNOTATION,
    applied_spec,
    placement,
)
from controller.runtime.index import Object

_HOSTNAME = "kubernetes.io/hostname"
_CONTAINER_FIELDS = (
    "name", "image", "imagePullPolicy", "command", "args", "env", "resources", "ports", "readinessProbe",
    "securityContext", "terminationMessagePath", "volumeMounts", "volumeDevices",
)  # fmt: skip
_VOLUME_KINDS = ("secret", "persistentVolumeClaim", "emptyDir", "hostPath")


def build_target(name: str, source: Object, spec: MachineSpec) -> Object:
    """A pod like `source` with the Secret `name`, for any node but the source's.

    What was plugged in meanwhile becomes part of its spec. Where it may run is what the machine's spec says now.
    """
    metadata = source["metadata"]
    # Others are about the source alone: an address that two pods cannot have, claims that were plugged.
    annotations = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if key in (APPLIED_ANNOTATION, LABELS_ANNOTATION, STRATEGY_ANNOTATION, RENEWAL_ANNOTATION)
    }
    pod_spec = {
        key: source["spec"][key]
        for key in (
            "restartPolicy",
            "automountServiceAccountToken",
            "terminationGracePeriodSeconds",
            "imagePullSecrets",
            "securityContext",
        )
        if key in source["spec"]
    }
    container, volumes = _with_claims(source)
    volumes = [{**v, "secret": {"secretName": name}} if "secret" in v else v for v in volumes]
    placed = placement(spec, applied_spec(source)["cpu"]["modelName"])
    placed["affinity"] = elsewhere(placed["affinity"], source["spec"]["nodeName"])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": {**(metadata.get("labels") or {}), MOVE_LABEL: name.rpartition("-")[2]},
            "annotations": annotations,
            "ownerReferences": metadata["ownerReferences"],
        },
        "spec": pod_spec | placed | {"containers": [container], "volumes": volumes},
    }


def elsewhere(affinity: Object, node: str) -> Object:
    """The affinity, with the node left out."""
    new = copy.deepcopy(affinity)
    required = new.setdefault("nodeAffinity", {}).setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = required.get("nodeSelectorTerms") or [{}]
    demand = {"key": _HOSTNAME, "operator": "NotIn", "values": [node]}
    required["nodeSelectorTerms"] = [
        {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), demand]} for term in terms
    ]
    return new


def _with_claims(source: Object) -> tuple[Object, list[Object]]:
    """The container and the volumes, with the claims that the pod uses now."""
    found = next(c for c in source["spec"]["containers"] if c["name"] == CONTAINER_NAME)
    container: Object = copy.deepcopy({key: found[key] for key in _CONTAINER_FIELDS if key in found})
    released = released_claims(source)
    # What the cluster itself adds to pods, it will add again.
    volumes = [
        volume
        for volume in source["spec"]["volumes"]
        if any(kind in volume for kind in _VOLUME_KINDS)
        and volume.get("persistentVolumeClaim", {}).get("claimName") not in released
    ]
    names = {volume["name"] for volume in volumes}
    for field in ("volumeMounts", "volumeDevices"):
        if field in container:
            container[field] = [entry for entry in container[field] if entry["name"] in names]
    for index, (claim, place) in enumerate(sorted(additional_claims(source).items())):
        name = f"plugged-{index}"
        while name in names:
            name += "-again"
        names.add(name)
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim}})
        if place.device_path:
            container.setdefault("volumeDevices", []).append({"name": name, "devicePath": place.device_path})
        else:
            container.setdefault("volumeMounts", []).append({"name": name, "mountPath": place.mount_path})
    return container, volumes
