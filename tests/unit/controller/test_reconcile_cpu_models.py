"""CPU models: matched against what nodes tell, wanted by machines, kept while they are used."""

from typing import Any, Literal

import pytest

from controller.api.kinds import admit
from controller.api.node_selection import rejection
from controller.api.resource import CPU_MODEL, DISK, GROUP, MACHINE, NODE, POD, VERSION
from controller.cpumodels.nodes import CAPABILITY_ANNOTATION
from controller.launcher.capability import Capability
from controller.machines.processor import on_capable_nodes
from tests.unit.controller.test_reconcile_story import DISK_SPEC, MACHINE_SPEC, ready_image, running_machine
from tests.unit.controller.world import World

MODELS = {"Nehalem": ["sse3", "sse4.2"], "Haswell": ["sse3", "sse4.2", "avx2", "hle"], "kvm64": ["sse3"]}
LABEL = f"cpu-model.{GROUP}/generic-v1"


def join(world: World, name: str, accelerator: Literal["kvm", "tcg"], *available: str) -> None:
    annotations = {}
    if available:
        annotations[CAPABILITY_ANNOTATION] = Capability.of(accelerator, available, dict(MODELS)).model_dump_json()
    world.cluster.create(NODE, {"metadata": {"name": name, "annotations": annotations}})
    world.settle()


def status_of(world: World, spec: dict[str, Any]) -> dict[str, Any]:
    world.apply(CPU_MODEL, "model", spec)
    return world.status(CPU_MODEL, "model")


def told(world: World, name: str = "model") -> tuple[str, str]:
    condition = world.condition(CPU_MODEL, name, "Ready")
    return condition["reason"], condition["message"]


def test_capabilities_survive_their_wire() -> None:
    capability = Capability.of("tcg", ["sse3", "aes"], dict(MODELS), "no access to /dev/kvm")
    capability = Capability.model_validate_json(capability.model_dump_json())
    assert capability.available_features() == {"sse3", "aes"}
    assert capability.features_of("Haswell") == frozenset(MODELS["Haswell"])
    assert capability.features_of("none") is None


def test_the_default_is_there_and_waits_for_nodes_to_tell() -> None:
    world = World()
    world.settle()
    assert world.get(CPU_MODEL, "generic-v1")["spec"] == {"type": "Model", "model": "Nehalem"}
    assert world.status(CPU_MODEL, "generic-v1")["phase"] == "Pending"
    join(world, "silent", "kvm")
    assert world.status(CPU_MODEL, "generic-v1")["phase"] == "Pending"
    assert "labels" not in world.get(NODE, "silent")["metadata"], "what tells nothing is tried"
    join(world, "a", "kvm", "sse3", "sse4.2", "aes")
    assert world.status(CPU_MODEL, "generic-v1") | {"conditions": None} == {
        "phase": "Ready",
        "nodes": ["a"],
        "features": {"enabled": ["sse3", "sse4.2"], "notEnabledCommon": ["aes"]},
        "conditions": None,
        "observedGeneration": 1,
    }
    assert world.get(NODE, "a")["metadata"]["labels"] == {LABEL: "true"}


def test_kvm_gives_a_model_whole_or_not_at_all() -> None:
    world = World()
    join(world, "new", "kvm", "sse3", "sse4.2", "avx2", "hle", "aes")
    join(world, "old", "kvm", "sse3", "sse4.2")
    status = status_of(world, {"type": "Model", "model": "Haswell"})
    assert (status["phase"], status["nodes"]) == ("Ready", ["new"])
    assert told(world) == ("Ready", "machines with it run on new; old: its processor lacks avx2, hle")
    assert world.get(NODE, "old")["metadata"]["labels"][f"cpu-model.{GROUP}/model"] == "false"


def test_emulation_gives_what_it_can_and_says_what_is_left_out() -> None:
    world = World()
    join(world, "a", "tcg", "sse3", "sse4.2", "avx2")
    status = status_of(world, {"type": "Model", "model": "Haswell"})
    assert status["features"]["enabled"] == ["avx2", "sse3", "sse4.2"]
    assert told(world) == ("Ready", "machines with it run on a; a: emulated there without hle")


def test_the_hosts_processor_is_what_all_nodes_have() -> None:
    world = World()
    join(world, "a", "kvm", "sse3", "avx2")
    join(world, "b", "kvm", "sse3", "aes")
    status = status_of(world, {"type": "Host"})
    assert (status["nodes"], status["features"]) == (["a", "b"], {"enabled": ["sse3"], "notEnabledCommon": []})


def test_features_are_added_to_a_plain_processor() -> None:
    world = World()
    join(world, "a", "kvm", "sse3", "sse4.2", "avx2")
    status = status_of(world, {"type": "Features", "features": ["avx2"]})
    assert status["features"] == {"enabled": ["avx2", "sse3"], "notEnabledCommon": ["sse4.2"]}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"type": "Model", "model": "Z80"}, "its QEMU knows no model 'Z80'"),
        ({"type": "Features", "features": ["turbo"]}, "its QEMU knows no feature turbo"),
        ({"type": "Features", "features": ["hle"]}, "its processor lacks hle"),
    ],
)
def test_a_model_that_no_node_has_fails_and_its_machines_say_so(spec: dict[str, Any], why: str) -> None:
    world = World()
    join(world, "a", "kvm", "sse3")
    assert status_of(world, spec)["phase"] == "Failed"
    assert told(world) == ("NoNode", f"no node can run it: a: {why}")
    running_machine(world, cpu={"cores": 1, "modelName": "model"})
    condition = world.condition(MACHINE, "web", "Running")
    assert (world.status(MACHINE, "web")["phase"], condition["reason"]) == ("Pending", "CPUModelNotReady")
    assert why in condition["message"]


def test_a_machine_waits_for_a_cpu_model_that_does_not_exist() -> None:
    world = World()
    running_machine(world, cpu={"cores": 1, "modelName": "later"})
    assert world.condition(MACHINE, "web", "Running")["reason"] == "CPUModelNotFound"
    world.apply(CPU_MODEL, "later", {"type": "Host"})
    assert world.find(POD, "vm-web") is not None


def test_a_machine_goes_only_where_its_model_runs() -> None:
    world = World()
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    world.bind("vmd-root")
    world.apply(MACHINE, "web", MACHINE_SPEC)
    join(world, "able", "kvm", "sse3", "sse4.2")
    join(world, "unable", "kvm", "sse3")
    join(world, "silent", "kvm")
    pod = world.get(POD, "vm-web")
    nodes = {obj["metadata"]["name"]: not rejection(pod, obj) for obj in world.cluster.list(NODE)}
    assert nodes == {"able": True, "unable": False, "silent": True}


def test_the_users_own_terms_all_get_the_demand() -> None:
    zones = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]} for zone in "ab"]
    mine = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": zones}}}
    affinity = on_capable_nodes(mine, "generic-v1")
    terms = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [[demand["key"] for demand in term["matchExpressions"]] for term in terms] == [["zone", LABEL]] * 2
    assert len(zones[0]["matchExpressions"]) == 1, "the spec is left as it is"


@pytest.mark.parametrize(
    ("operator", "values", "allows"),
    [
        ("In", ["a", "b"], True),
        ("In", ["c"], False),
        ("NotIn", ["a"], False),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
        ("Gt", ["1"], False),
    ],
)
def test_node_affinity_is_read_as_kubernetes_reads_it(operator: str, values: list[str], allows: bool) -> None:
    term = {"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    pod = {"spec": {"affinity": {"nodeAffinity": required}}}
    assert (rejection(pod, {"metadata": {"name": "n", "labels": {"zone": "a"}}}) == "") == allows


def test_a_model_that_is_used_is_not_deleted() -> None:
    world = World()
    join(world, "a", "kvm", "sse3", "sse4.2")
    world.apply(CPU_MODEL, "model", {"type": "Host"})
    running_machine(world, cpu={"cores": 1, "modelName": "model"})
    assert world.delete(CPU_MODEL, "model") is not None
    assert told(world) == ("InUse", "is deleted when no VirtualMachine uses it: default/web")
    world.change(MACHINE, "web", {"cpu": {"modelName": "generic-v1"}})
    assert world.find(CPU_MODEL, "model") is None
    assert world.get(NODE, "a")["metadata"]["labels"] == {LABEL: "true"}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"type": "Model"}, "spec.model"),
        ({"type": "Features", "features": []}, "spec.features"),
        ({"type": "Host", "model": "Nehalem"}, "spec.model"),
        ({"type": "Model", "model": "Nehalem", "features": ["aes"]}, "spec.features"),
        ({"type": "Model", "model": "a,b=c"}, "spec.model"),
        ({"type": "Features", "features": ["aes", "avx,-sse"]}, "spec.features[1]"),
    ],
)
def test_wrong_models_are_refused_with_their_field(spec: dict[str, Any], field: str) -> None:
    obj = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "VirtualMachineCPUModel",
        "metadata": {"name": "m"},
        "spec": spec,
    }
    assert [error.field for error in admit(obj, None)] == [field]
    assert [error.field for error in admit(obj, {**obj, "spec": {"type": "Host"}})] == ["spec"]
