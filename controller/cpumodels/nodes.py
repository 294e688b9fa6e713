"""What nodes tell of their processors, and what they are told of CPU models. Pure."""

from dataclasses import dataclass

from pydantic import ValidationError

from controller.api.cpu_model import CpuModelSpec, CpuModelType
from controller.api.resource import GROUP
from controller.launcher.capability import Capability
from controller.launcher.processor import FEATURES_BASE
from controller.runtime.index import Object

CAPABILITY_ANNOTATION = f"{GROUP}/processor"
"""On a Node, by its agent: a `Capability` as JSON."""


def label_of(model: str) -> str:
    """The label of nodes that says whether they can run machines with the CPU model: "true" or "false"."""
    return f"cpu-model.{GROUP}/{model}"


def capability_of(node: Object) -> Capability | None:
    """None if the node tells nothing, or nothing that can be read."""
    text = (node["metadata"].get("annotations") or {}).get(CAPABILITY_ANNOTATION)
    try:
        return Capability.model_validate_json(text) if text else None
    except ValidationError:
        return None


@dataclass(frozen=True)
class Fit:
    """How a CPU model goes with one node."""

    runs: bool
    enabled: frozenset[str]
    message: str = ""
    """Why it does not run, or what is left out."""


def fit(spec: CpuModelSpec, capability: Capability) -> Fit:
    """KVM gives a model whole or not at all; emulation gives what it can."""
    available = capability.available_features()
    if spec.type is CpuModelType.HOST:
        return Fit(runs=True, enabled=available)
    if spec.type is CpuModelType.MODEL:
        wanted = capability.features_of(spec.model or "")
        if wanted is None:
            return Fit(runs=False, enabled=frozenset(), message=f"its QEMU knows no model {spec.model!r}")
    else:
        asked = frozenset(spec.features or ())
        unknown = sorted(asked - set(capability.names))
        if unknown:
            return Fit(runs=False, enabled=frozenset(), message=f"its QEMU knows no feature {', '.join(unknown)}")
        wanted = asked | (capability.features_of(FEATURES_BASE) or frozenset())
    missing = ", ".join(sorted(wanted - available))
    if not missing:
        return Fit(runs=True, enabled=wanted)
    if capability.accelerator == "kvm":
        return Fit(runs=False, enabled=frozenset(), message=f"its processor lacks {missing}")
    return Fit(runs=True, enabled=wanted & available, message=f"emulated there without {missing}")
