"""The kinds that exist without a CustomResourceDefinition, as far as DVCR, kubectl and the tests use them.

Their schemas hold defaults and the fields without which an object makes no sense; everything else is kept as it comes.
"""

from typing import Any

from controller.local.definition import Column, Definition

_AGE = Column("Age", ".metadata.creationTimestamp", "date")
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
        columns=(*columns, _AGE),
    )  # fmt: skip


_ROLE_COLUMN = Column("Role", ".roleRef.name")


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
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            _AGE,
            Column("Version", ".status.nodeInfo.kubeletVersion"),
            Column("Internal-IP", ".status.addresses[?(@.type=='InternalIP')].address", priority=1),
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
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Status", ".status.phase"),
            Column("Restarts", ".status.containerStatuses[0].restartCount", "integer"),
            _AGE,
            Column("IP", ".status.podIP", priority=1),
            Column("Node", ".spec.nodeName", priority=1),
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
            Column("Access Modes", ".spec.accessModes"),
            Column("Reclaim Policy", ".spec.persistentVolumeReclaimPolicy"),
            Column("Status", ".status.phase"),
            Column("Claim", ".spec.claimRef.name"),
            Column("StorageClass", ".spec.storageClassName"),
            _AGE,
        ),
    ),
    _core(
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        "pvc",
        has_status=True,
        schema=_PVC,
        columns=(
            Column("Status", ".status.phase"),
            Column("Volume", ".spec.volumeName"),
            Column("Capacity", ".status.capacity.storage"),
            Column("Access Modes", ".spec.accessModes"),
            Column("StorageClass", ".spec.storageClassName"),
            _AGE,
        ),
    ),
    _core(
        "Secret",
        "secrets",
        schema=_open({"type": {"type": "string", "default": "Opaque"}, "data": _STRINGS}),
        columns=(Column("Type", ".type"), _AGE),
        selectable_fields=("type",),
    ),
    _core("ConfigMap", "configmaps", "cm", schema=_open({"data": _STRINGS}), columns=(_AGE,)),
    _core(
        "Service",
        "services",
        "svc",
        has_status=True,
        categories=("all",),
        columns=(Column("Type", ".spec.type"), Column("Cluster-IP", ".spec.clusterIP"), _AGE),
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
            Column("Last Seen", ".lastTimestamp", "date"),
            Column("Type", ".type"),
            Column("Reason", ".reason"),
            Column("Object", ".involvedObject.name"),
            Column("Message", ".message"),
        ),
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
            Column("Min Available", ".spec.minAvailable"),
            Column("Max Unavailable", ".spec.maxUnavailable"),
            Column("Allowed Disruptions", ".status.disruptionsAllowed", "integer"),
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
            Column("AllowVolumeExpansion", ".allowVolumeExpansion", "boolean"),
            _AGE,
        ),
    ),
    _rbac("Role", "roles", _RULES),
    _rbac("ClusterRole", "clusterroles", _RULES, namespaced=False),
    _rbac("RoleBinding", "rolebindings", _BINDING, _ROLE_COLUMN),
    _rbac("ClusterRoleBinding", "clusterrolebindings", _BINDING, _ROLE_COLUMN, namespaced=False),
    Definition(
        "apiregistration.k8s.io",
        "v1",
        "APIService",
        "apiservices",
        namespaced=False,
        singular="apiservice",
        has_status=True,
        schema=_API_SERVICE,
        columns=(Column("Service", ".spec.service.name"), _AGE),
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
        columns=(Column("Created At", ".metadata.creationTimestamp"),),
    ),
)
