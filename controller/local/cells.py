"""What tables show of built-in kinds where one field does not say it, in the words of Kubernetes' printers. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from controller.local.durations import human_duration

Object = dict[str, Any]
NONE, UNSET = "<none>", "<unset>"
_MODES = {
    "ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP",
}  # fmt: skip
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def count_of_data(obj: Object) -> int:
    """Of a ConfigMap or a Secret."""
    return len(obj.get("data") or {}) + len(obj.get("binaryData") or {})


def pod_ready(pod: Object) -> str:
    """The containers that are ready, of how many."""
    ready = sum(bool(each.get("ready")) for each in _statuses(pod, "containerStatuses"))
    return f"{ready}/{len(pod['spec']['containers'])}"


def pod_status(pod: Object) -> str:
    """The phase, or what keeps the pod from it."""
    status = pod.get("status") or {}
    text = str(status.get("reason") or status.get("phase") or "")
    initializing = _initializing(pod)
    text = initializing or _of_containers(pod, text)
    if pod["metadata"].get("deletionTimestamp") and status.get("reason") != "NodeLost":
        return text if status.get("phase") in ("Succeeded", "Failed") else "Terminating"
    return text


def pod_restarts(pod: Object) -> str:
    """How often containers were started again, and when the last time was."""
    statuses = _statuses(pod, "initContainerStatuses" if _initializing(pod) else "containerStatuses")
    count = sum(each.get("restartCount") or 0 for each in statuses)
    ends = [((each.get("lastState") or {}).get("terminated") or {}).get("finishedAt") for each in statuses]
    last = max((end for end in ends if end), default="")
    return f"{count} ({age(last)} ago)" if count and last else str(count)


def readiness_gates(pod: Object) -> str:
    """How many hold, of how many."""
    gates = [each["conditionType"] for each in pod["spec"].get("readinessGates") or ()]
    held = {each["type"] for each in _conditions(pod) if each["status"] == "True"}
    return f"{sum(gate in held for gate in gates)}/{len(gates)}" if gates else NONE


def node_status(node: Object) -> str:
    """Whether the node is ready, and takes pods."""
    ready = next((each["status"] for each in _conditions(node) if each["type"] == "Ready"), "")
    text = {"True": "Ready", "": "Unknown"}.get(ready, "NotReady")
    return f"{text},SchedulingDisabled" if (node.get("spec") or {}).get("unschedulable") else text


def node_roles(node: Object) -> str:
    prefix = "node-role.kubernetes.io/"
    roles = [key.removeprefix(prefix) for key in node["metadata"].get("labels") or {} if key.startswith(prefix)]
    return _joined(sorted(filter(None, roles)))


def node_address(node: Object, kind: str) -> str:
    addresses = (node.get("status") or {}).get("addresses") or ()
    return next((str(each["address"]) for each in addresses if each["type"] == kind), NONE)


def claim_modes(claim: Object) -> str:
    """Those of the volume, once there is one."""
    return modes((claim.get("status") or {}).get("accessModes")) if claim["spec"].get("volumeName") else ""


def claim_capacity(claim: Object) -> str:
    capacity = (claim.get("status") or {}).get("capacity") or {}
    return str(capacity.get("storage", "")) if claim["spec"].get("volumeName") else ""


def phase(obj: Object) -> str:
    """The phase, or that the object goes."""
    return (
        "Terminating" if obj["metadata"].get("deletionTimestamp") else str((obj.get("status") or {}).get("phase", ""))
    )


def volume_claim(volume: Object) -> str:
    claim = volume["spec"].get("claimRef") or {}
    return f"{claim['namespace']}/{claim['name']}" if claim else ""


def modes(names: Iterable[str] | None) -> str:
    """Access modes, as short as they are shown."""
    return ",".join(short for name, short in _MODES.items() if name in (names or ()))


def service_address(service: Object) -> str:
    """Where a service is reached from outside."""
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", ""))
    return _joined(spec.get("externalIPs") or ())


def service_ports(service: Object) -> str:
    return _joined(
        f"{each['port']}{':' + str(each['nodePort']) if each.get('nodePort') else ''}/{each.get('protocol', 'TCP')}"
        for each in service["spec"].get("ports") or ()
    )


def selector(service: Object) -> str:
    return _joined(f"{key}={value}" for key, value in sorted((service["spec"].get("selector") or {}).items()))


def role(binding: Object) -> str:
    return f"{binding['roleRef']['kind']}/{binding['roleRef']['name']}"


def subjects(binding: Object, kind: str) -> str:
    """Those of the kind that a binding names."""
    found = [each for each in binding.get("subjects") or () if each["kind"] == kind]
    if kind == "ServiceAccount":
        return ", ".join(f"{each.get('namespace', '')}/{each['name']}" for each in found)
    return ", ".join(each["name"] for each in found)


def budget(obj: Object, field: str) -> str:
    value = (obj.get("spec") or {}).get(field)
    return "N/A" if value is None else str(value)


def class_name(obj: Object) -> str:
    """Of a StorageClass, with the word that it is the default one."""
    default = (obj["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true"
    return f"{obj['metadata']['name']} (default)" if default else str(obj["metadata"]["name"])


def api_service(obj: Object) -> str:
    """Who serves it."""
    service = (obj.get("spec") or {}).get("service") or {}
    return f"{service['namespace']}/{service['name']}" if service else "Local"


def event_object(event: Object) -> str:
    """What an event is about."""
    about = event["involvedObject"]
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


def event_source(event: Object) -> str:
    source = event.get("source") or {}
    component = source.get("component") or event.get("reportingComponent") or ""
    return f"{component}, {source['host']}" if source.get("host") else str(component)


def event_time(event: Object, *fields: str) -> str:
    """How long ago it was, by the first of these fields that it has."""
    return age(next((event[field] for field in (*fields, "eventTime") if event.get(field)), ""))


def age(moment: str) -> str:
    """How long ago that was."""
    if not moment:
        return "<unknown>"
    return human_duration((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


def _of_containers(pod: Object, text: str) -> str:
    running = False
    for each in reversed(_statuses(pod, "containerStatuses")):
        state = each.get("state") or {}
        if reason := (state.get("waiting") or {}).get("reason"):
            text = reason
        elif ended := state.get("terminated"):
            text = _ended(ended)
        elif each.get("ready") and "running" in state:
            running = True
    if text == "Completed" and running:
        is_ready = any(each["type"] == "Ready" and each["status"] == "True" for each in _conditions(pod))
        return "Running" if is_ready else "NotReady"
    return text


def _initializing(pod: Object) -> str:
    """What the first init container that has not done its work is about; empty where none is."""
    all_of_them = len(pod["spec"].get("initContainers") or ())
    for index, each in enumerate(_statuses(pod, "initContainerStatuses")):
        state = each.get("state") or {}
        ended = state.get("terminated")
        if ended and ended.get("exitCode") == 0:
            continue
        if ended:
            return f"Init:{_ended(ended)}"
        reason = (state.get("waiting") or {}).get("reason")
        return f"Init:{reason}" if reason and reason != "PodInitializing" else f"Init:{index}/{all_of_them}"
    return ""


def _ended(terminated: Object) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode')}"


def _statuses(pod: Object, field: str) -> list[Object]:
    return list((pod.get("status") or {}).get(field) or ())


def _conditions(obj: Object) -> list[Object]:
    return list((obj.get("status") or {}).get("conditions") or ())


def _joined(parts: Iterable[str]) -> str:
    return ",".join(parts) or NONE
