"""VirtualMachineCPUModel."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from controller.api.model import ApiModel, ChangeRule, Condition, ModelRule
from controller.api.rules import OneBlock, Rule, fixed, name_up_to
from controller.api.text import ProcessorWord

CPU_MODEL_RULES = (name_up_to(63, "it becomes part of a label of nodes"),)
"""Of the whole model."""


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
    rules: ClassVar[tuple[ModelRule, ...]] = (
        OneBlock({CpuModelType.MODEL: "model", CpuModelType.FEATURES: "features"}),
        Rule(
            "!has(self.features) || self.features.size() > 0",
            lambda spec: spec.features is None or bool(spec.features),
            "must name at least one",
            "features",
        ),
    )
    changes: ClassVar[tuple[ChangeRule, ...]] = fixed()
    type: CpuModelType
    model: ProcessorWord | None = None
    """Of QEMU, such as Nehalem or EPYC-Rome."""
    features: list[ProcessorWord] | None = Field(None, max_length=512)
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
