"""Which nodes a pod accepts: its node selector and required node affinity, as Kubernetes' scheduler reads them."""

from typing import Any

Object = dict[str, Any]


def rejection(pod: Object, node: Object) -> str:
    """Why the pod does not accept the node; empty if it does."""
    labels = node["metadata"].get("labels") or {}
    for key, value in (pod["spec"].get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return f"the node does not have the label {key}={value}"
    return "" if _affinity_allows(pod, node) else "the node does not match the pod's node affinity"


def _affinity_allows(pod: Object, node: Object) -> bool:
    """Whether one of the pod's required node selector terms matches the node, or it has none."""
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms")
    return not terms or any(_matches(term, node) for term in terms)


def _matches(term: Object, node: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    fields = {"metadata.name": node["metadata"]["name"]}
    demands = [(demand, labels) for demand in term.get("matchExpressions") or ()]
    demands += [(demand, fields) for demand in term.get("matchFields") or ()]
    # A term that demands nothing matches nothing.
    return bool(demands) and all(_holds(demand, values) for demand, values in demands)


def _holds(demand: Object, present: dict[str, str]) -> bool:
    value, wanted = present.get(demand["key"]), demand.get("values") or []
    match demand["operator"]:
        case "In":
            return value in wanted
        case "NotIn":
            return value not in wanted
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator if value is not None and wanted:
            try:
                return int(value) > int(wanted[0]) if operator == "Gt" else int(value) < int(wanted[0])
            except ValueError:
                return False
    return False
