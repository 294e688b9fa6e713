"""VirtualMachineCPUModel: which nodes can run it, said in its status and on the nodes."""

from controller.api.cpu_model import CpuFeatures, CpuModelPhase, CpuModelSpec, CpuModelStatus
from controller.api.machine import MachineSpec
from controller.api.resource import CPU_MODEL, MACHINE, NODE
from controller.cpumodels.nodes import Fit, capability_of, fit, label_of
from controller.launcher.capability import Capability
from controller.runtime.conditions import Clock, utc_now
from controller.runtime.errors import ClusterError
from controller.runtime.index import Key, Object
from controller.runtime.port import ClusterPort
from controller.runtime.subject import Subject

READY = "Ready"


class CpuModelReconciler:
    """Matches a CPU model against every node; keeps one that is used from being deleted."""

    def __init__(self, cluster: ClusterPort, clock: Clock = utc_now) -> None:
        self._cluster = cluster
        self._clock = clock

    def reconcile(self, key: Key) -> float | None:
        obj = self._cluster.get(CPU_MODEL, key[1])
        if obj is None:
            return None
        model = Subject(self._cluster, CPU_MODEL, obj, CpuModelStatus, self._clock)
        nodes = self._cluster.list(NODE)
        if model.deleting and model.finalized:
            return None
        try:
            if model.deleting:
                self._remove(model, nodes)
            else:
                model.hold()
                self._match(model, nodes)
        except ClusterError as exc:
            model.status.phase = model.status.phase or CpuModelPhase.PENDING
            model.tell_trouble(READY, exc)
            raise
        # One without our finalizer may be gone.
        if not model.finalized:
            model.save()
        return None

    def _match(self, model: Subject[CpuModelStatus], nodes: list[Object]) -> None:
        spec = CpuModelSpec.read(model.obj["spec"])
        told = {node["metadata"]["name"]: capability for node in nodes if (capability := capability_of(node))}
        fits = {name: fit(spec, capability) for name, capability in sorted(told.items())}
        for node in nodes:
            known = fits.get(node["metadata"]["name"])
            if known is not None:
                self._label(node, model.name, "true" if known.runs else "false")
        runs = [name for name, known in fits.items() if known.runs]
        model.status.nodes = runs or None
        model.status.features = _features([fits[name] for name in runs], [told[name] for name in runs])
        messages = [f"{name}: {known.message}" for name, known in fits.items() if known.message]
        if not fits:
            model.status.phase = CpuModelPhase.PENDING
            model.condition(READY, False, "NothingKnown", "no node has told of its processor yet")
        elif not runs:
            model.status.phase = CpuModelPhase.FAILED
            model.condition(READY, False, "NoNode", "no node can run it: " + "; ".join(messages))
        else:
            model.status.phase = CpuModelPhase.READY
            where = f"machines with it run on {', '.join(runs)}"
            model.condition(READY, True, "Ready", "; ".join([where, *messages]))

    def _remove(self, model: Subject[CpuModelStatus], nodes: list[Object]) -> None:
        users = sorted(
            f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"
            for obj in self._cluster.list(MACHINE)
            if MachineSpec.read(obj["spec"]).cpu.model_name == model.name
        )
        if users:
            model.condition(READY, False, "InUse", f"is deleted when no VirtualMachine uses it: {', '.join(users)}")
            return
        for node in nodes:
            self._label(node, model.name, None)
        model.let_go()

    def _label(self, node: Object, model: str, value: str | None) -> None:
        label = label_of(model)
        if (node["metadata"].get("labels") or {}).get(label) != value:
            self._cluster.patch(NODE, node["metadata"]["name"], {"metadata": {"labels": {label: value}}})


def _features(fits: list[Fit], capabilities: list[Capability]) -> CpuFeatures | None:
    if not fits:
        return None
    enabled = frozenset.intersection(*(each.enabled for each in fits))
    common = frozenset.intersection(*(capability.available_features() for capability in capabilities))
    return CpuFeatures(enabled=sorted(enabled), not_enabled_common=sorted(common - enabled))
