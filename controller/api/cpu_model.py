"""VirtualMachineCPUModel."""

import re
from enum import StrEnum
from typing import Any

from pydantic import Field

from controller.api.model import ApiModel, Condition, FieldError

MAX_NAME_LENGTH = 63
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class CpuModelType(StrEnum):
    HOST = "Host"
    MODEL = "Model"
    FEATURES = "Features"


class CpuModelPhase(StrEnum):
    PENDING = "Pending"
    IN_PROGRESS = "InProgress"
    READY = "Ready"
    FAILED = "Failed"


class CpuModelSpec(ApiModel):
    type: CpuModelType
    model: str | None = None
    """Of QEMU, such as Nehalem or EPYC-Rome."""
    features: list[str] | None = None
    """Names as QEMU has them, such as aes or avx2."""


class CpuFeatures(ApiModel):
    enabled: list[str] = Field(default_factory=list)
    """What a machine with this model has on each of its nodes."""
    not_enabled_common: list[str] = Field(default_factory=list)
    """What all of these nodes have besides."""


class CpuModelStatus(ApiModel):
    phase: CpuModelPhase | None = None
    nodes: list[str] | None = None
    features: CpuFeatures | None = None
    conditions: list[Condition] = Field(default_factory=list)
    observed_generation: int | None = None


def check_cpu_model(spec: CpuModelSpec, obj: dict[str, Any], old: dict[str, Any] | None) -> list[FieldError]:
    """The rules of a CPU model."""
    if old is not None:
        return [] if obj["spec"] == old["spec"] else [FieldError("spec", "cannot be changed after creation")]
    errors = []
    if len(obj["metadata"].get("name", "")) > MAX_NAME_LENGTH:
        message = f"must be no longer than {MAX_NAME_LENGTH} characters: it becomes part of a label of nodes"
        errors.append(FieldError("metadata.name", message))
    own = {CpuModelType.MODEL: "model", CpuModelType.FEATURES: "features"}.get(spec.type)
    for field, value in (("model", spec.model), ("features", spec.features)):
        if field == own and not value:
            errors.append(FieldError(f"spec.{field}", f"required when spec.type is {spec.type.value}"))
        if field != own and value is not None:
            errors.append(FieldError(f"spec.{field}", f"must not be set when spec.type is {spec.type.value}"))
    named = [("spec.model", spec.model)] if spec.model else []
    named += [(f"spec.features[{index}]", feature) for index, feature in enumerate(spec.features or [])]
    for path, word in named:
        if not _WORD.fullmatch(word):
            errors.append(FieldError(path, f"{word!r} is no name that QEMU knows; write it like Nehalem or sse4.2"))
    return errors
