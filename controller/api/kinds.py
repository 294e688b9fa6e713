"""The table of DVCR's kinds; their CustomResourceDefinitions and admission rules come from it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from controller.api.address import (
    AddressClaimSpec,
    AddressClaimStatus,
    AddressLeaseSpec,
    AddressLeaseStatus,
    check_address_claim,
    check_address_lease,
)
from controller.api.attachment import AttachmentSpec, AttachmentStatus, check_attachment
from controller.api.cpu_model import CpuModelSpec, CpuModelStatus, check_cpu_model
from controller.api.disk import DiskSpec, DiskStatus, check_disk
from controller.api.image import ClusterImageSpec, ImageSpec, ImageStatus, check_image
from controller.api.machine import MachineSpec, MachineStatus, check_machine
from controller.api.model import ApiModel, FieldError, field_errors
from controller.api.operation import OperationSpec, OperationStatus, check_operation
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
    """A kind: its address, its types, its table, and the rules that a schema cannot say."""

    resource: Resource
    spec: type[ApiModel]
    status: type[ApiModel]
    columns: tuple[Column, ...]
    check: Callable[[Any, dict[str, Any], dict[str, Any] | None], list[FieldError]]


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
    Kind(CLUSTER_IMAGE, ClusterImageSpec, ImageStatus, _IMAGE_COLUMNS, check_image),
    Kind(IMAGE, ImageSpec, ImageStatus, _IMAGE_COLUMNS, check_image),
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
        check_disk,
    ),
    Kind(
        MACHINE,
        MachineSpec,
        MachineStatus,
        (_PHASE, Column("NodeName", ".status.nodeName"), Column("IPAddress", ".status.ipAddress"), _AGE),
        check_machine,
    ),
    Kind(CPU_MODEL, CpuModelSpec, CpuModelStatus, (_PHASE, _AGE), check_cpu_model),
    Kind(
        OPERATION,
        OperationSpec,
        OperationStatus,
        (_PHASE, Column("VMName", ".spec.virtualMachineName"), _AGE),
        check_operation,
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
        check_attachment,
    ),
    Kind(
        ADDRESS_CLAIM,
        AddressClaimSpec,
        AddressClaimStatus,
        (_PHASE, Column("Address", ".status.address"), Column("VM", ".status.virtualMachineName"), _AGE),
        check_address_claim,
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
        check_address_lease,
    ),
)
_BY_KIND = {kind.resource.kind: kind for kind in KINDS}


def crds() -> list[dict[str, Any]]:
    """An apiextensions/v1 CustomResourceDefinition of each kind."""
    return [_crd(kind) for kind in KINDS]


def admit(obj: dict[str, Any], old: dict[str, Any] | None) -> list[FieldError]:
    """What is wrong with an object of ours that is to be created (`old` is None) or changed; empty if nothing is.

    Objects of other kinds, and changes that leave the spec alone, are always fine.
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
    return kind.check(spec, obj, old)


def _crd(kind: Kind) -> dict[str, Any]:
    resource = kind.resource
    schema = {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural_schema(kind.spec),
            "status": structural_schema(kind.status),
        },
    }
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
