"""The processor of a machine: its CPU model, and nodes that have it."""

import copy

from controller.api.cpu_model import CpuModelPhase, CpuModelSpec, CpuModelStatus
from controller.api.resource import CPU_MODEL
from controller.cpumodels.nodes import label_of
from controller.launcher.spec import Processor
from controller.machines.launch import Launch, NotReady
from controller.machines.visit import Visit
from controller.runtime.conditions import find_condition
from controller.runtime.index import Object


def processor(visit: Visit, launch: Launch) -> NotReady | None:
    """The prerequisite: the CPU model is there, and some node can run it or none has told that it cannot."""
    name = visit.spec.cpu.model_name
    model = visit.cluster.get(CPU_MODEL, name)
    if model is None:
        return NotReady("CPUModelNotFound", f"waits for VirtualMachineCPUModel {name!r}, which does not exist")
    status = CpuModelStatus.read(model.get("status"))
    if status.phase is CpuModelPhase.FAILED:
        ready = find_condition(status.conditions, "Ready")
        why = f": {ready.message}" if ready else ""
        return NotReady("CPUModelNotReady", f"waits for VirtualMachineCPUModel {name!r}{why}")
    spec = CpuModelSpec.read(model["spec"])
    launch.processor = Processor(type=spec.type.value, model=spec.model or "", features=tuple(spec.features or ()))
    return None


def on_capable_nodes(affinity: Object | None, model: str) -> Object:
    """The affinity with the demand added that the node can run the model; nodes that tell nothing are tried."""
    changed = copy.deepcopy(affinity or {})
    required = changed.setdefault("nodeAffinity", {}).setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    # Terms are alternatives, so each of them has to demand it.
    for term in required.setdefault("nodeSelectorTerms", [{}]):
        demand = {"key": label_of(model), "operator": "NotIn", "values": ["false"]}
        term["matchExpressions"] = [*(term.get("matchExpressions") or ()), demand]
    return changed
