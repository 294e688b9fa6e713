"""What pods are given for the registry: for how much, for how long, and where it lies."""

import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from controller.api.resource import CLUSTER_IMAGE, DISK, IMAGE, MACHINE, NODE, POD, PVC, SECRET
from controller.disks.claim import FILLED_ANNOTATION, IMAGE_ANNOTATION
from controller.launcher.spec import CREDENTIALS_PATH, DiskStatus, MachineSpec, MachineState, MachineStatus, WorkEnd
from controller.machines.pod import APPLIED_ANNOTATION
from controller.registry_access import ACCESS_ANNOTATION, RegistryAccess, pulls
from dvcr.client.credentials import Credentials
from dvcr.config import ClientSettings
from dvcr.errors import RegistryError
from tests.unit.controller.test_reconcile_captures import GOLDEN
from tests.unit.controller.test_reconcile_story import DISK_SPEC, MACHINE_SPEC, ready_image, running_machine
from tests.unit.controller.world import NOW, MemoryTokens, World, operate

PASSWORD = "the controller's own"
DEBIAN = "repository:cvmi/debian:pull"
CAPTURE = "repository:cvmi/debian:pull repository:vmi/default/golden:pull,push"
RUNNING = MachineStatus(state=MachineState.RUNNING, accelerator="tcg")
AWAY = RegistryError("the registry is away", reason="RegistryUnavailable", retryable=True)


@pytest.fixture
def world() -> World:
    """The registry wants to know who is there, and issues tokens for an hour."""
    settings = {"url": "http://registry.test", "username": "controller", "password": PASSWORD}
    return World(client=ClientSettings.model_validate(settings))


def held(world: World, name: str = "vm-web") -> Credentials:
    """What the pod of that name shows to the registry."""
    return Credentials.read(base64.b64decode(world.get(SECRET, name)["data"]["registry.json"]))


def cdrom(world: World) -> dict[str, Any]:
    """A block device: the image `tools`."""
    uid = world.apply(IMAGE, "tools", {"dataSource": {"type": "HTTP", "http": {"url": "http://x/y.iso"}}})
    world.publish("vmi/default/tools", uid["metadata"]["uid"], cdrom=True)
    world.settle()
    return {"type": "VirtualMachineImage", "virtualMachineImage": {"name": "tools"}}


def test_a_machine_may_read_its_images_and_nothing_secret_is_in_its_pod(world: World) -> None:
    ready_image(world)
    devices = [*MACHINE_SPEC["blockDevices"], cdrom(world)]  # type: ignore[misc]
    running_machine_of(world, blockDevices=devices)

    assert held(world) == Credentials(token=f"1 {DEBIAN} repository:vmi/default/tools:pull")
    pod = world.get(POD, "vm-web")
    assert PASSWORD not in json.dumps(pod)
    assert "repository:" not in json.dumps(pod)
    container = pod["spec"]["containers"][0]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    client = {name for name in variables if name.startswith("DVCR__CLIENT__")}
    assert client == {"DVCR__CLIENT__URL", "DVCR__CLIENT__CREDENTIALS_FILE"}
    assert variables["DVCR__CLIENT__CREDENTIALS_FILE"] == CREDENTIALS_PATH
    assert {"name": "machine", "mountPath": "/etc/dvcr", "readOnly": True} in container["volumeMounts"]
    assert {"name": "machine", "secret": {"secretName": "vm-web"}} in pod["spec"]["volumes"]


def running_machine_of(world: World, **spec: object) -> None:
    world.apply(DISK, "root", DISK_SPEC)
    world.bind("vmd-root")
    world.apply(MACHINE, "web", {**MACHINE_SPEC, **spec})
    world.run_pod()


def test_tokens_are_replaced_after_half_of_their_lives(world: World) -> None:
    running_machine(world)
    before = world.cluster.writes
    world.pass_time(1799)
    world.settle()
    assert (world.cluster.writes, held(world).token) == (before, f"1 {DEBIAN}")

    world.pass_time(1)
    world.settle()
    assert held(world).token == f"2 {DEBIAN}"
    spec = world.get(SECRET, "vm-web")["data"]["machine.json"]
    assert json.loads(base64.b64decode(spec))["name"] == "web", "the rest of the Secret stays"
    # So that the node looks at the Secret at once.
    note = world.get(POD, "vm-web")["metadata"]["annotations"][ACCESS_ANNOTATION]
    assert note.endswith(" 2026-01-01T13:00:00Z")


def test_a_pod_that_waits_for_a_node_is_not_forgotten(world: World) -> None:
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    world.bind("vmd-root")
    world.apply(MACHINE, "web", MACHINE_SPEC)
    world.pass_time(4 * 3600)
    world.settle()
    assert held(world).token == f"2 {DEBIAN}"


def test_a_machine_whose_disks_stand_alone_needs_nothing_any_more(world: World) -> None:
    running_machine(world)
    world.launchers.status = RUNNING.model_copy(update={"disks": (DiskStatus(name="vmd-root"),)})
    world.settle()
    assert FILLED_ANNOTATION in world.get(PVC, "vmd-root")["metadata"]["annotations"]
    assert held(world) == Credentials()
    writes = world.cluster.writes
    world.pass_time(10 * 3600)
    world.settle()
    assert (world.tokens.issued, world.cluster.writes) == (1, writes)

    operate(world, "Stop", "stop")
    world.end_pod("Stopped")
    world.finish_deletion()
    world.tokens.error = AWAY
    operate(world, "Start", "start")
    assert world.find(POD, "vm-web") is not None, "such a machine starts without a registry"


def test_a_disk_that_is_attached_later_is_read_too(world: World) -> None:
    running_machine(world)
    own = {"dataSource": {"type": "HTTP", "http": {"url": "http://x/y.img"}}, "persistentVolumeClaim": {}}
    uid = world.apply(DISK, "data", own)["metadata"]["uid"]
    world.publish("vmd/default/data", uid)
    world.settle()
    world.bind("vmd-data")
    named = {"vmd-data": {"container": "machine", "mountPath": "/disks/data"}}
    annotations = {"virtualization.deckhouse.io/additional-claims": json.dumps(named)}
    world.cluster.patch(POD, "vm-web", {"metadata": {"annotations": annotations}}, "default")
    world.settle()
    assert held(world).token == f"2 {DEBIAN} repository:vmd/default/data:pull"


def test_a_registry_that_gives_none_holds_a_start_up_but_nothing_that_runs(world: World) -> None:
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    world.bind("vmd-root")
    world.tokens.error = AWAY
    world.apply(MACHINE, "web", MACHINE_SPEC)
    condition = world.condition(MACHINE, "web", "Running")
    assert (condition["reason"], condition["message"]) == ("RegistryUnavailable", AWAY.message)
    assert world.find(POD, "vm-web") is None

    world.tokens.error = None
    world.settle()
    assert world.find(POD, "vm-web") is None, "it is not asked again at once"
    world.pass_time(10)
    world.settle()
    world.run_pod()
    world.tokens.error = AWAY
    world.pass_time(3600)
    world.settle()
    assert (world.status(MACHINE, "web")["phase"], held(world).token) == ("Running", f"1 {DEBIAN}")
    condition = world.condition(MACHINE, "web", "Maintained")
    told = (condition["status"], condition["reason"], condition["message"])
    assert told == ("False", "RegistryUnavailable", AWAY.message)
    operate(world, "Stop", "stop")
    assert "deletionTimestamp" in world.get(POD, "vm-web")["metadata"]
    world.tokens.error = None
    world.pass_time(10)
    world.settle()
    assert held(world).token == f"2 {DEBIAN}", "the guest may read until its end"
    assert world.condition(MACHINE, "web", "Maintained")["status"] == "True"


def test_where_there_are_no_tokens_the_password_is_in_the_secret(world: World) -> None:
    world.tokens.issues = False
    running_machine(world)
    assert held(world) == Credentials("controller", PASSWORD)
    assert PASSWORD not in json.dumps(world.get(POD, "vm-web"))
    before = world.get(POD, "vm-web")["metadata"]["annotations"][ACCESS_ANNOTATION]
    world.pass_time(1800)
    world.settle()
    assert world.get(POD, "vm-web")["metadata"]["annotations"][ACCESS_ANNOTATION] != before, "it may be another one"


def test_a_registry_that_is_shown_nothing() -> None:
    world = World()
    running_machine(world)
    assert "registry.json" not in world.get(SECRET, "vm-web")["data"]
    pod = world.get(POD, "vm-web")
    assert ACCESS_ANNOTATION not in pod["metadata"]["annotations"]
    assert "CREDENTIALS" not in json.dumps(pod)
    assert world.tokens.issued == 0


def test_a_pod_from_before_is_left_as_it_is(world: World) -> None:
    running_machine(world)
    world.cluster.patch(POD, "vm-web", {"metadata": {"annotations": {ACCESS_ANNOTATION: None}}}, "default")
    world.pass_time(3600)
    world.settle()
    assert world.tokens.issued == 1


def test_annotations_lead_to_no_image_of_another_namespace(world: World) -> None:
    own = {"cvmi/debian", "vmi/a/x", "vmd/a/y"}
    others = {"vmi/b/x", "vmd/b/y", "vmi/ab/x", "team/x", "cvmi/x:pull repository:vmi/b/x", "cvmi/", "**"}
    assert pulls(own | others, "a") == {f"repository:{name}:pull" for name in own}

    running_machine(world)
    stolen = {IMAGE_ANNOTATION: "vmi/other/secret@sha256:" + "a" * 64}
    world.cluster.patch(PVC, "vmd-root", {"metadata": {"annotations": stolen}}, "default")
    world.pass_time(3600)
    world.settle()
    assert held(world) == Credentials()


@pytest.mark.parametrize("broken", ["[]", "{", '{"blockDevices": [7]}', '{"blockDevices": 7}'])
def test_a_machine_with_broken_annotations_is_removed_all_the_same(world: World, broken: str) -> None:
    running_machine(world)
    annotations = {APPLIED_ANNOTATION: broken, "virtualization.deckhouse.io/additional-claims": broken}
    world.cluster.patch(POD, "vm-web", {"metadata": {"annotations": annotations}}, "default")
    world.cluster.delete(MACHINE, "web", "default")
    world.reconcilers[MACHINE].reconcile(("default", "web"))
    assert "deletionTimestamp" in world.get(POD, "vm-web")["metadata"]


def test_a_moving_machine_reads_at_both_ends(world: World) -> None:
    world.launchers.status = None
    world.launchers.of_pod["vm-web"] = RUNNING
    world.tokens.life_s = 100
    running_machine(world)
    world.cluster.patch(PVC, "vmd-root", {"spec": {"accessModes": ["ReadWriteMany"]}}, "default")
    for name in ("node", "other"):
        world.cluster.create(NODE, {"metadata": {"name": name}, "spec": {}})
        world.cluster.set_status(NODE, name, None, conditions=[{"type": "Ready", "status": "True"}])
    secret = world.get(SECRET, "vm-web")["data"]["machine.json"]
    world.launchers.specifications["vm-web"] = MachineSpec.model_validate_json(base64.b64decode(secret))
    world.settle()
    operate(world, "Migrate")
    (target,) = (p["metadata"]["name"] for p in world.cluster.list(POD) if p["metadata"]["name"] != "vm-web")
    assert held(world, target).token == f"2 {DEBIAN}"
    assert ACCESS_ANNOTATION in world.get(POD, target)["metadata"]["annotations"]
    world.pass_time(50)
    world.settle()
    assert world.status(MACHINE, "web")["phase"] == "Migrating"
    assert held(world).token == f"3 {DEBIAN}", "also while it moves"


def test_a_copy_into_a_disk_reads_its_image_and_takes_its_secret_with_it(world: World) -> None:
    ready_image(world)
    world.apply(DISK, "root", {**DISK_SPEC, "provisioning": "Eager"})
    world.bind("vmd-root")
    name = f"fill-{world.get(DISK, 'root')['metadata']['uid']}"
    pod = world.get(POD, name)
    assert held(world, name).token == f"1 {DEBIAN}"
    assert PASSWORD not in json.dumps(pod)
    assert {"name": "registry", "secret": {"secretName": name}} in pod["spec"]["volumes"]
    mounts = pod["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "registry", "mountPath": "/etc/dvcr", "readOnly": True} in mounts
    (owner,) = world.get(SECRET, name)["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"]}
    world.run_pod(name)
    world.pass_time(1800)
    world.settle()
    assert held(world, name).token == f"2 {DEBIAN}"

    text = WorkEnd().model_dump_json()
    statuses = [{"name": "fill", "state": {"terminated": {"exitCode": 0, "message": text}}}]
    world.cluster.set_status(POD, name, "default", phase="Succeeded", containerStatuses=statuses)
    world.settle()
    assert (world.find(POD, name), world.find(SECRET, name)) == (None, None)


def test_a_copy_waits_for_the_registry_and_says_so(world: World) -> None:
    ready_image(world)
    world.apply(DISK, "root", {**DISK_SPEC, "provisioning": "Eager"})
    world.tokens.error = AWAY
    world.bind("vmd-root")
    assert world.condition(DISK, "root", "Ready")["message"] == AWAY.message
    assert not [pod for pod in world.cluster.list(POD) if pod["metadata"]["name"].startswith("fill-")]


def test_a_capture_writes_its_image_and_reads_what_the_disk_began_as(world: World) -> None:
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    world.bind("vmd-root")
    world.tokens.life_s = 300
    uid = world.apply(IMAGE, "golden", GOLDEN)["metadata"]["uid"]
    name = f"capture-{uid}"
    assert held(world, name).token == f"1 {CAPTURE}"
    (owner,) = world.get(SECRET, name)["metadata"]["ownerReferences"]
    assert owner["kind"] == "Pod"
    world.run_pod(name)
    world.pass_time(149)
    world.settle()
    assert held(world, name).token == f"1 {CAPTURE}"
    world.pass_time(1)
    world.settle()
    assert held(world, name).token == f"2 {CAPTURE}"


def test_a_capture_in_a_machine_has_a_token_of_its_own(world: World) -> None:
    running_machine(world)
    world.tokens.life_s = 300
    uid = world.apply(IMAGE, "golden", GOLDEN)["metadata"]["uid"]
    assert world.launchers.credentials[uid] == Credentials(token=f"2 {CAPTURE}")
    world.pass_time(149)
    world.settle()
    assert world.launchers.credentials[uid] == Credentials(token=f"2 {CAPTURE}")
    world.pass_time(1)
    world.settle()
    assert world.launchers.credentials[uid] == Credentials(token=f"3 {CAPTURE}")
    assert held(world).token == f"1 {DEBIAN}", "the machine's is to read"


def test_what_is_lent_is_forgotten_once_it_is_old() -> None:
    tokens = MemoryTokens()
    now = NOW
    access = RegistryAccess(tokens, lambda: Credentials("controller", PASSWORD), lambda: now)
    assert access.lend({"a"}) == access.lend({"a"}) == Credentials(token="1 a")
    assert access.lend({"b"}) == Credentials(token="2 b")
    now += timedelta(seconds=1800)
    assert access.lend({"a"}) == Credentials(token="3 a")


def test_a_cluster_image_of_a_disk_goes_where_cluster_images_are(world: World) -> None:
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    world.bind("vmd-root")
    reference = {"name": "root", "namespace": "default"}
    spec = {"dataSource": {"type": "VirtualMachineDisk", "virtualMachineDisk": reference}}
    uid = world.apply(CLUSTER_IMAGE, "golden", spec)["metadata"]["uid"]
    assert held(world, f"capture-{uid}").token == f"1 {DEBIAN} repository:cvmi/golden:pull,push"
