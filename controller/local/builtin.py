"""The kinds that exist without a CustomResourceDefinition, as far as DVCR, kubectl and the tests use them.

Their schemas hold defaults and the fields without which an object makes no sense; everything else is kept as it comes.
"""

from collections.abc import Callable
from typing import Any

from controller.local import cells
from controller.local.definition import Column, Definition

_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_CREATED = Column("Created At", ".metadata.creationTimestamp")
_DATA = Column("Data", cells.count_of_data)
_STRING = {"type": "string"}
_STRINGS = {"type": "object", "additionalProperties": _STRING}


def _open(properties: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties or {},
        "x-kubernetes-preserve-unknown-fields": True,
        **more,
    }


_CONTAINER = _open(
    {
        "name": {"type": "string", "minLength": 1},
        "image": _STRING,
        "terminationMessagePath": {"type": "string", "default": "/dev/termination-log"},
        "terminationMessagePolicy": {"type": "string", "default": "File"},
        "imagePullPolicy": {"type": "string", "default": "IfNotPresent"},
        "resources": _open(default={}),
    },
    required=["name"],
)
_POD = _open(
    {
        "spec": _open(
            {
                "containers": {"type": "array", "minItems": 1, "items": _CONTAINER},
                "initContainers": {"type": "array", "items": _CONTAINER},
                "restartPolicy": {"type": "string", "enum": ["Always", "OnFailure", "Never"], "default": "Always"},
                "terminationGracePeriodSeconds": {"type": "integer", "default": 30},
                "dnsPolicy": {"type": "string", "default": "ClusterFirst"},
                "schedulerName": {"type": "string", "default": "default-scheduler"},
                "securityContext": _open(default={}),
            },
            required=["containers"],
        )
    },
    required=["spec"],
)
_PVC = _open(
    {
        "spec": _open(
            {
                "accessModes": {"type": "array", "minItems": 1, "items": _STRING},
                "volumeMode": {"type": "string", "enum": ["Filesystem", "Block"], "default": "Filesystem"},
                "resources": _open({"requests": _open(required=["storage"])}, required=["requests"]),
            },
            required=["accessModes", "resources"],
        )
    },
    required=["spec"],
)


def _or_none(part: str, field: str) -> Callable[[dict[str, Any]], str]:
    """The cell for a field that may have no value."""
    return lambda obj: str((obj.get(part) or {}).get(field) or cells.NONE)


_NAMES = _open({"plural": _STRING, "kind": _STRING}, required=["plural", "kind"])
_CRD = _open(
    {
        "spec": _open(
            {
                "group": {"type": "string", "minLength": 1},
                "scope": {"type": "string", "enum": ["Namespaced", "Cluster"]},
                "names": _NAMES,
                "versions": {
                    "type": "array",
                    "minItems": 1,
                    "items": _open(
                        {"name": _STRING, "served": {"type": "boolean"}, "storage": {"type": "boolean"}},
                        required=["name", "served", "storage"],
                    ),
                },
            },
            required=["group", "scope", "names", "versions"],
        )
    },
    required=["spec"],
)


_RULES = _open({"rules": {"type": "array", "items": _open(required=["verbs"])}})
_BINDING = _open(
    {
        "subjects": {"type": "array", "items": _open({"kind": _STRING, "name": _STRING}, required=["kind", "name"])},
        "roleRef": _open({"kind": _STRING, "name": _STRING}, required=["kind", "name"]),
    },
    required=["roleRef"],
)
_API_SERVICE = _open(
    {
        "spec": _open(
            {
                "group": {"type": "string", "minLength": 1},
                "version": {"type": "string", "minLength": 1},
                "service": _open(
                    {"namespace": _STRING, "name": _STRING, "port": {"type": "integer"}},
                    required=["namespace", "name"],
                ),
                "caBundle": _STRING,
            },
            required=["group", "version", "service"],
        )
    },
    required=["spec"],
)


def _rbac(kind: str, plural: str, schema: dict[str, Any], *columns: Column, namespaced: bool = True) -> Definition:
    return Definition(
        "rbac.authorization.k8s.io", "v1", kind, plural, namespaced, singular=kind.lower(), schema=schema,
        columns=columns,
    )  # fmt: skip


def _subjects(title: str, kind: str) -> Column:
    return Column(title, lambda binding: cells.subjects(binding, kind), priority=1)


_OF_BINDINGS = (
    Column("Role", cells.role), _AGE, _subjects("Users", "User"), _subjects("Groups", "Group"),
    _subjects("ServiceAccounts", "ServiceAccount"),
)  # fmt: skip


def _core(kind: str, plural: str, *short_names: str, **more: Any) -> Definition:
    return Definition("", "v1", kind, plural, short_names=short_names, singular=kind.lower(), **more)


BUILT_IN: tuple[Definition, ...] = (
    _core(
        "Namespace",
        "namespaces",
        "ns",
        namespaced=False,
        has_status=True,
        columns=(Column("Status", ".status.phase"), _AGE),
        selectable_fields=("status.phase",),
    ),
    _core(
        "Node",
        "nodes",
        "no",
        namespaced=False,
        has_status=True,
        selectable_fields=("spec.unschedulable",),
        columns=(
            Column("Status", cells.node_status),
            Column("Roles", cells.node_roles),
            _AGE,
            Column("Version", ".status.nodeInfo.kubeletVersion"),
            Column("Internal-IP", lambda node: cells.node_address(node, "InternalIP"), priority=1),
            Column("External-IP", lambda node: cells.node_address(node, "ExternalIP"), priority=1),
            Column("OS-Image", ".status.nodeInfo.osImage", priority=1),
            Column("Kernel-Version", ".status.nodeInfo.kernelVersion", priority=1),
            Column("Container-Runtime", ".status.nodeInfo.containerRuntimeVersion", priority=1),
        ),
    ),
    _core(
        "Pod",
        "pods",
        "po",
        has_status=True,
        categories=("all",),
        schema=_POD,
        selectable_fields=("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "status.phase", "status.podIP"),
        columns=(
            Column("Ready", cells.pod_ready),
            Column("Status", cells.pod_status),
            Column("Restarts", cells.pod_restarts),
            _AGE,
            Column("IP", _or_none("status", "podIP"), priority=1),
            Column("Node", _or_none("spec", "nodeName"), priority=1),
            Column("Nominated Node", _or_none("status", "nominatedNodeName"), priority=1),
            Column("Readiness Gates", cells.readiness_gates, priority=1),
        ),
    ),
    _core(
        "PersistentVolume",
        "persistentvolumes",
        "pv",
        namespaced=False,
        has_status=True,
        columns=(
            Column("Capacity", ".spec.capacity.storage"),
            Column("Access Modes", lambda volume: cells.modes(volume["spec"].get("accessModes"))),
            Column("Reclaim Policy", ".spec.persistentVolumeReclaimPolicy"),
            Column("Status", cells.phase),
            Column("Claim", cells.volume_claim),
            Column("StorageClass", ".spec.storageClassName"),
            Column("VolumeAttributesClass", lambda _: cells.UNSET),
            Column("Reason", ".status.reason"),
            _AGE,
            Column("VolumeMode", ".spec.volumeMode", priority=1),
        ),
    ),
    _core(
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        "pvc",
        has_status=True,
        schema=_PVC,
        columns=(
            Column("Status", cells.phase),
            Column("Volume", ".spec.volumeName"),
            Column("Capacity", cells.claim_capacity),
            Column("Access Modes", cells.claim_modes),
            Column("StorageClass", ".spec.storageClassName"),
            Column("VolumeAttributesClass", lambda _: cells.UNSET),
            _AGE,
            Column("VolumeMode", ".spec.volumeMode", priority=1),
        ),
    ),
    _core(
        "Secret",
        "secrets",
        schema=_open({"type": {"type": "string", "default": "Opaque"}, "data": _STRINGS}),
        columns=(Column("Type", ".type"), _DATA, _AGE),
        selectable_fields=("type",),
    ),
    _core("ConfigMap", "configmaps", "cm", schema=_open({"data": _STRINGS}), columns=(_DATA, _AGE)),
    _core(
        "Service",
        "services",
        "svc",
        has_status=True,
        categories=("all",),
        columns=(
            Column("Type", ".spec.type"),
            Column("Cluster-IP", _or_none("spec", "clusterIP")),
            Column("External-IP", cells.service_address),
            Column("Port(s)", cells.service_ports),
            _AGE,
            Column("Selector", cells.selector, priority=1),
        ),
    ),
    _core("ServiceAccount", "serviceaccounts", "sa", columns=(_AGE,)),
    _core(
        "Event",
        "events",
        "ev",
        selectable_fields=(
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ),
        columns=(
            Column("Last Seen", lambda event: cells.event_time(event, "lastTimestamp", "firstTimestamp")),
            Column("Type", ".type"),
            Column("Reason", ".reason"),
            Column("Object", cells.event_object),
            Column("Subobject", ".involvedObject.fieldPath", priority=1),
            Column("Source", cells.event_source, priority=1),
            Column("Message", ".message"),
            Column("First Seen", lambda event: cells.event_time(event, "firstTimestamp"), priority=1),
            Column("Count", lambda event: str(event.get("count") or 1), priority=1),
            Column("Name", ".metadata.name", priority=1),
        ),
        shown_name="",
    ),
    Definition(
        "coordination.k8s.io",
        "v1",
        "Lease",
        "leases",
        singular="lease",
        columns=(Column("Holder", ".spec.holderIdentity"), _AGE),
    ),
    # Clients look whether the group is there before they evict pods.
    Definition(
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        short_names=("pdb",),
        singular="poddisruptionbudget",
        has_status=True,
        columns=(
            Column("Min Available", lambda obj: cells.budget(obj, "minAvailable")),
            Column("Max Unavailable", lambda obj: cells.budget(obj, "maxUnavailable")),
            Column(
                "Allowed Disruptions", lambda obj: (obj.get("status") or {}).get("disruptionsAllowed", 0), "integer"
            ),
            _AGE,
        ),
    ),
    Definition(
        "storage.k8s.io",
        "v1",
        "StorageClass",
        "storageclasses",
        namespaced=False,
        short_names=("sc",),
        singular="storageclass",
        schema=_open(
            {
                "reclaimPolicy": {"type": "string", "default": "Delete"},
                "volumeBindingMode": {"type": "string", "default": "Immediate"},
            }
        ),
        columns=(
            Column("Provisioner", ".provisioner"),
            Column("ReclaimPolicy", ".reclaimPolicy"),
            Column("VolumeBindingMode", ".volumeBindingMode"),
            Column("AllowVolumeExpansion", lambda obj: bool(obj.get("allowVolumeExpansion"))),
            _AGE,
        ),
        shown_name=cells.class_name,
    ),
    _rbac("Role", "roles", _RULES, _CREATED),
    _rbac("ClusterRole", "clusterroles", _RULES, _CREATED, namespaced=False),
    _rbac("RoleBinding", "rolebindings", _BINDING, *_OF_BINDINGS),
    _rbac("ClusterRoleBinding", "clusterrolebindings", _BINDING, *_OF_BINDINGS, namespaced=False),
    Definition(
        "apiregistration.k8s.io",
        "v1",
        "APIService",
        "apiservices",
        namespaced=False,
        singular="apiservice",
        has_status=True,
        schema=_API_SERVICE,
        columns=(Column("Service", cells.api_service), Column("Available", lambda _: "True"), _AGE),
    ),
    Definition(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        namespaced=False,
        short_names=("crd", "crds"),
        singular="customresourcedefinition",
        has_status=True,
        schema=_CRD,
        columns=(_CREATED,),
    ),
)
