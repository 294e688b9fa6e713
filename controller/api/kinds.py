"""The table of DVCR's kinds; their CustomResourceDefinitions and admission rules come from it."""

import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from controller.api.address import (
    LEASE_RULES,
    AddressClaimSpec,
    AddressClaimStatus,
    AddressLeaseSpec,
    AddressLeaseStatus,
)
from controller.api.attachment import AttachmentSpec, AttachmentStatus
from controller.api.cpu_model import CPU_MODEL_RULES, CpuModelSpec, CpuModelStatus
from controller.api.disk import DISK_CHANGES, DISK_RULES, DiskSpec, DiskStatus
from controller.api.image import CLUSTER_IMAGE_RULES, IMAGE_RULES, ClusterImageSpec, ImageSpec, ImageStatus
from controller.api.machine import MACHINE_RULES, MachineSpec, MachineStatus
from controller.api.model import ApiModel, ChangeRule, FieldError, ModelRule, field_errors
from controller.api.operation import OperationSpec, OperationStatus
from controller.api.resource import (
    ADDRESS_CLAIM,
    ADDRESS_LEASE,
    ATTACHMENT,
    CLUSTER_IMAGE,
    CPU_MODEL,
    DISK,
    GROUP,
    IMAGE,
    MACHINE,
    OPERATION,
    VERSION,
    Resource,
)
from controller.api.rules import violations
from controller.api.schema import structural_schema

__all__ = ["KINDS", "Column", "FieldError", "Kind", "admit", "crds"]


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`; a wide one shows with `-o wide` only."""

    name: str
    json_path: str
    type: str = "string"
    wide: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind: its address, its types, its table, and the rules of the whole object besides those of its spec."""

    resource: Resource
    spec: type[ApiModel]
    status: type[ApiModel]
    columns: tuple[Column, ...]
    rules: tuple[ModelRule, ...] = ()
    changes: tuple[ChangeRule, ...] = ()


_PHASE = Column("Phase", ".status.phase")
_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_IMAGE_COLUMNS = (
    _PHASE,
    Column("CDROM", ".status.cdrom", "boolean"),
    Column("Progress", ".status.progress"),
    Column("StoredSize", ".status.size.stored", wide=True),
    Column("UnpackedSize", ".status.size.unpacked", wide=True),
    Column("Registry URL", ".status.target.registryURL", wide=True),
    _AGE,
)

KINDS: tuple[Kind, ...] = (
    Kind(CLUSTER_IMAGE, ClusterImageSpec, ImageStatus, _IMAGE_COLUMNS, rules=CLUSTER_IMAGE_RULES),
    Kind(IMAGE, ImageSpec, ImageStatus, _IMAGE_COLUMNS, rules=IMAGE_RULES),
    Kind(
        DISK,
        DiskSpec,
        DiskStatus,
        (
            _PHASE,
            Column("Capacity", ".status.capacity"),
            Column("Progress", ".status.progress", wide=True),
            Column("Target PVC", ".status.target.persistentVolumeClaimName", wide=True),
            _AGE,
        ),
        rules=DISK_RULES,
        changes=DISK_CHANGES,
    ),
    Kind(
        MACHINE,
        MachineSpec,
        MachineStatus,
        (_PHASE, Column("NodeName", ".status.nodeName"), Column("IPAddress", ".status.ipAddress"), _AGE),
        rules=MACHINE_RULES,
    ),
    Kind(CPU_MODEL, CpuModelSpec, CpuModelStatus, (_PHASE, _AGE), rules=CPU_MODEL_RULES),
    Kind(
        OPERATION,
        OperationSpec,
        OperationStatus,
        (_PHASE, Column("VMName", ".spec.virtualMachineName"), _AGE),
    ),
    Kind(
        ATTACHMENT,
        AttachmentSpec,
        AttachmentStatus,
        (
            _PHASE,
            Column("VMName", ".status.virtualMachineName"),
            Column("Disk", ".spec.blockDevice.virtualMachineDisk.name", wide=True),
            _AGE,
        ),
    ),
    Kind(
        ADDRESS_CLAIM,
        AddressClaimSpec,
        AddressClaimStatus,
        (_PHASE, Column("Address", ".status.address"), Column("VM", ".status.virtualMachineName"), _AGE),
    ),
    Kind(
        ADDRESS_LEASE,
        AddressLeaseSpec,
        AddressLeaseStatus,
        (
            _PHASE,
            Column("Namespace", ".spec.claimRef.namespace"),
            Column("Claim", ".spec.claimRef.name"),
            _AGE,
        ),
        rules=LEASE_RULES,
    ),
)
_BY_KIND = {kind.resource.kind: kind for kind in KINDS}


def crds() -> list[dict[str, Any]]:
    """An apiextensions/v1 CustomResourceDefinition of each kind."""
    return [_crd(kind) for kind in KINDS]


def admit(obj: dict[str, Any], old: dict[str, Any] | None) -> list[FieldError]:
    """What is wrong with an object of ours that is to be created (`old` is None) or changed; empty if nothing is.

    Objects of other kinds, and parts of the spec that stay as they were, are always fine, as for an API server.
    """
    kind = _BY_KIND.get(obj.get("kind", ""))
    if kind is None or not str(obj.get("apiVersion", "")).startswith(f"{GROUP}/"):
        return []
    if old is not None and obj.get("spec") == old.get("spec"):
        return []
    try:
        spec = kind.spec.read(obj.get("spec"))
    except ValidationError as exc:
        return field_errors(exc, "spec")
    errors = list(violations(spec, "spec"))
    if old is None:
        return errors + [error for rule in kind.rules for error in rule.broken(obj, "")]
    was, is_ = old["spec"], obj["spec"]
    changed = {name for name in was.keys() | is_.keys() if was.get(name) != is_.get(name)}
    forbidden = [error for rule in kind.changes for error in rule.broken(obj, old, "")]
    forbidden += [error for rule in spec.changes for error in rule.broken(is_, was, "spec")]
    return forbidden or [error for error in errors if re.split(r"[.\[]", error.field)[1] in changed]


def _crd(kind: Kind) -> dict[str, Any]:
    resource = kind.resource
    schema: dict[str, Any] = {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": structural_schema(kind.spec),
            "status": structural_schema(kind.status, has_rules=False),
        },
    }
    said = [validation for rule in (*kind.changes, *kind.rules) for validation in rule.validations()]
    if said:
        schema["x-kubernetes-validations"] = said
    columns = [
        {"name": column.name, "type": column.type, "jsonPath": column.json_path}
        | ({"priority": 1} if column.wide else {})
        for column in kind.columns
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": list(resource.short_names),
                "categories": list(resource.categories),
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }
