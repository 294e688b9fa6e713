"""Machines: run policies against every way to end, waiting, restarting, deleting."""

import base64
import json

import pytest

from controller.api.resource import DISK, MACHINE, OPERATION, POD, SECRET
from controller.launcher.spec import CACHE_FOLDER, SNAPSHOTS_FOLDER, DiskStatus, MachineState, MachineStatus
from controller.machines.last_output import last_output
from dvcr.config import LauncherSettings
from tests.unit.controller.test_reconcile_story import DISK_SPEC, MACHINE_SPEC, ready_image, running_machine
from tests.unit.controller.world import MIB, World, operate

ON, UNLESS = "AlwaysOn", "AlwaysOnUnlessStoppedManually"


def test_the_launcher_is_told_everything() -> None:
    world = World()
    running_machine(world)
    data = world.get(SECRET, "vm-web")["data"]
    spec = json.loads(base64.b64decode(data["machine.json"]))
    uid = world.get(MACHINE, "web")["metadata"]["uid"]
    assert spec["disks"] == [
        {
            "name": "vmd-root",
            "kind": "disk",
            "path": "/disks/root/disk.qcow2",
            "device": False,
            "size_bytes": 64 * 2**20,
            "image": {"repository": "cvmi/debian", "digest": "sha256:" + "a" * 64},
            "cdrom": False,
            "hotplug": False,
            "port": None,
        }
    ]
    assert (spec["cores"], spec["core_percent"], spec["memory_bytes"]) == (2, 25, 2**30)
    assert spec["cloud_init"] == {"user_data": "#cloud-config", "instance_id": uid, "hostname": "web"}
    pod = world.get(POD, "vm-web")["spec"]
    assert pod["restartPolicy"] == "Never"
    assert {"name": "disk-0", "persistentVolumeClaim": {"claimName": "vmd-root"}} in pod["volumes"]
    container = pod["containers"][0]
    assert {"name": "disk-0", "mountPath": "/disks/root"} in container["volumeMounts"]
    assert {"name": "DVCR__CLIENT__URL", "value": "http://registry.test"} in container["env"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["fsGroup"]) == (True, 107)
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_the_pod_has_room_for_all_that_grows() -> None:
    world = World()
    running_machine(world)
    pod = world.get(POD, "vm-web")["spec"]
    container = pod["containers"][0]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume.get("emptyDir") for volume in pod["volumes"]}
    assert mounts["snapshots"] == SNAPSHOTS_FOLDER
    # On the node's disk, and the launcher is full before the pod is evicted.
    assert "medium" not in volumes["snapshots"]
    assert int(volumes["snapshots"]["sizeLimit"]) > LauncherSettings().snapshot_bytes
    # In memory, which is the pod's: bounded.
    assert volumes["run"] == {"medium": "Memory", "sizeLimit": str(16 * MIB)}
    assert mounts["cache"] == CACHE_FOLDER
    # The launcher's own, 48 MiB of chunks, as much on their way, and translated code where there is no KVM.
    assert container["resources"]["limits"] == {"memory": str((1024 + 224 + 2 * 48 + 128) * MIB)}


def test_a_machine_waits_for_its_disk_and_says_so() -> None:
    world = World()
    world.apply(MACHINE, "web", MACHINE_SPEC)
    condition = world.condition(MACHINE, "web", "BlockDevicesReady")
    assert (world.status(MACHINE, "web")["phase"], condition["reason"]) == ("Pending", "DiskNotFound")
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    assert world.condition(MACHINE, "web", "BlockDevicesReady")["reason"] == "DiskNotReady"
    world.bind("vmd-root")
    assert world.condition(MACHINE, "web", "BlockDevicesReady")["status"] == "True"
    assert world.status(MACHINE, "web")["phase"] == "Scheduling"


def test_a_machine_does_not_start_on_a_disk_that_is_to_be_deleted() -> None:
    world = World()
    ready_image(world)
    world.apply(DISK, "root", DISK_SPEC)
    world.bind("vmd-root")
    # The disk is not looked at before the machine is.
    world.cluster.delete(DISK, "root", "default")
    metadata = {"name": "web", "namespace": "default"}
    web = {"apiVersion": MACHINE.api_version, "kind": MACHINE.kind, "metadata": metadata, "spec": MACHINE_SPEC}
    world.cluster.create(MACHINE, web)
    world.reconcile(MACHINE, ("default", "web"))
    condition = world.condition(MACHINE, "web", "BlockDevicesReady")
    message = "waits for VirtualMachineDisk 'root', which is Terminating"
    assert (condition["reason"], condition["message"]) == ("DiskNotReady", message)
    assert world.find(POD, "vm-web") is None


def test_a_machine_cannot_boot_from_an_image_that_is_no_cdrom() -> None:
    world = World()
    ready_image(world)
    device = {"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": "debian"}}
    world.apply(MACHINE, "web", {**MACHINE_SPEC, "blockDevices": [device]})
    assert world.condition(MACHINE, "web", "BlockDevicesReady")["reason"] == "ImageNotBootable"


def test_user_data_comes_from_a_secret() -> None:
    world = World()
    running_machine(world, provisioning={"type": "UserDataSecret", "userDataSecretRef": {"name": "s"}})
    assert world.condition(MACHINE, "web", "ProvisioningReady")["reason"] == "SecretNotFound"
    data = {"userData": base64.b64encode(b"#cloud-config").decode()}
    world.cluster.create(SECRET, {"metadata": {"name": "s", "namespace": "default"}, "data": data})
    world.settle()
    assert world.find(POD, "vm-web") is not None


@pytest.mark.parametrize("policy", [ON, UNLESS])
def test_a_crashing_machine_starts_again_after_a_pause_that_grows(policy: str) -> None:
    world = World()
    running_machine(world, runPolicy=policy)
    for pause_s in (5, 10, 20):
        world.end_pod("Failed", "QEMU died")
        status = world.status(MACHINE, "web")
        condition = world.condition(MACHINE, "web", "Running")
        assert (status["phase"], condition["reason"]) == ("Failed", "CrashLoopBackOff")
        assert condition["message"] == "QEMU died"
        world.pass_time(pause_s - 1)
        world.settle()
        assert world.find(POD, "vm-web") is None
        world.pass_time(1)
        world.settle()
        world.run_pod()
    assert world.status(MACHINE, "web")["phase"] == "Running"


def test_what_a_machine_wrote_last_stays_until_its_next_end() -> None:
    world = World()
    running_machine(world)
    assert last_output(world.cluster, "default", "web") is None

    world.end_pod("Failed", "QEMU died", output="Kernel panic\r\n")

    assert last_output(world.cluster, "default", "web") == b"Kernel panic\r\n"


def test_a_launcher_without_a_last_word_has_crashed() -> None:
    world = World()
    running_machine(world)
    world.kill_pod(reason="OOMKilled")
    message = world.condition(MACHINE, "web", "Running")["message"]
    assert message == "the launcher ended with exit code 137: OOMKilled"


def test_always_off_switches_off() -> None:
    world = World()
    running_machine(world)
    world.change(MACHINE, "web", {"runPolicy": "AlwaysOff"})
    assert world.status(MACHINE, "web")["phase"] == "Stopping"
    world.finish_deletion()
    assert world.status(MACHINE, "web")["phase"] == "Stopped"


def test_a_change_waits_for_a_restart_that_is_asked_for() -> None:
    world = World()
    running_machine(world)
    world.change(MACHINE, "web", {"cpu": {"cores": 4}, "terminationGracePeriodSeconds": 5})
    assert world.status(MACHINE, "web")["restartAwaitingChanges"] == [
        {"operation": "replace", "path": "cpu.cores", "currentValue": 2, "desiredValue": 4}
    ]
    assert operate(world, "Restart")["phase"] == "InProgress"
    world.finish_deletion()
    assert world.status(OPERATION, "op")["phase"] == "InProgress", "it does not run again yet"
    world.run_pod()
    assert world.status(OPERATION, "op")["phase"] == "Completed"
    assert "restartAwaitingChanges" not in world.status(MACHINE, "web")
    assert world.get(POD, "vm-web")["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "1000m"


def test_a_machine_that_is_off_waits_for_no_restart() -> None:
    world = World()
    running_machine(world)
    world.change(MACHINE, "web", {"cpu": {"cores": 4}})
    operate(world, "Stop", "stop")
    world.finish_deletion()
    assert "restartAwaitingChanges" not in world.status(MACHINE, "web")
    condition = world.condition(MACHINE, "web", "ConfigurationApplied")
    assert (condition["status"], condition["reason"]) == ("False", "NotRunning")
    operate(world, "Start", "start")
    world.run_pod()
    assert world.condition(MACHINE, "web", "ConfigurationApplied")["status"] == "True"


def test_a_change_is_applied_at_once_where_that_is_approved() -> None:
    world = World()
    running_machine(world, disruptions={"restartApprovalMode": "Automatic"})
    world.change(MACHINE, "web", {"memory": {"size": "2Gi"}})
    assert world.status(MACHINE, "web")["phase"] == "Stopping"
    world.finish_deletion()
    world.run_pod()
    assert world.status(MACHINE, "web")["phase"] == "Running"


def test_a_paused_guest_and_disks_that_are_copied_are_shown() -> None:
    world = World()
    running_machine(world)
    disks = (DiskStatus(name="vmd-root", streamed_percent=40),)
    world.launchers.status = MachineStatus(state=MachineState.RUNNING, disks=disks)
    world.settle()
    assert world.status(MACHINE, "web")["message"].endswith("vmd-root 40%")
    world.launchers.status = MachineStatus(state=MachineState.PAUSED, message="I/O error: the registry is gone")
    world.settle()
    assert world.status(MACHINE, "web")["phase"] == "Pause"
    world.launchers.status = None
    world.settle()
    assert world.status(MACHINE, "web")["phase"] == "Running"


def test_a_start_says_what_it_waits_for_and_is_looked_at_again() -> None:
    world = World()
    running_machine(world, runPolicy="Manual")
    operate(world, "Start")
    world.launchers.status = MachineStatus(state=MachineState.STARTING, message="the registry does not answer")
    world.cluster.patch(POD, "vm-web", {"spec": {"nodeName": "node"}}, "default")
    world.cluster.set_status(POD, "vm-web", "default", phase="Running", podIP="127.64.0.2")
    again_s = world.reconcilers[MACHINE].reconcile(("default", "web"))
    assert again_s == 10
    status, condition = world.status(MACHINE, "web"), world.condition(MACHINE, "web", "Running")
    assert (status["phase"], status["message"]) == ("Starting", "the registry does not answer")
    assert (condition["reason"], condition["message"]) == ("Starting", "the registry does not answer")
    assert world.condition(MACHINE, "web", "AgentReady")["reason"] == "NotRunning"

    world.launchers.status = MachineStatus(state=MachineState.STARTING)
    world.settle()
    assert world.condition(MACHINE, "web", "Running")["message"] == "the launcher starts QEMU"
    assert "message" not in world.status(MACHINE, "web")


def test_deleting_a_machine_powers_it_off_first() -> None:
    world = World()
    running_machine(world)
    assert world.delete(MACHINE, "web") is not None
    assert world.status(MACHINE, "web")["phase"] == "Terminating"
    assert "deletionTimestamp" in world.get(POD, "vm-web")["metadata"]
    world.finish_deletion()
    assert world.find(MACHINE, "web") is None
    assert world.find(SECRET, "vm-web") is None


def test_what_was_added_removed_and_replaced_is_listed_with_its_path_and_both_values() -> None:
    world = World()
    running_machine(world)
    devices = [
        *MACHINE_SPEC["blockDevices"],  # type: ignore[misc]  # a list of dicts
        {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "data"}},
    ]
    world.change(MACHINE, "web", {"provisioning": None, "blockDevices": devices, "bootloader": "EFI"})
    changes = world.status(MACHINE, "web")["restartAwaitingChanges"]
    assert [(change["operation"], change["path"]) for change in changes] == [
        ("replace", "blockDevices"), ("replace", "bootloader"), ("remove", "provisioning"),
    ]  # fmt: skip
    assert changes[0]["desiredValue"] == devices
    assert (changes[1]["currentValue"], changes[1]["desiredValue"]) == ("BIOS", "EFI")
    assert changes[2]["currentValue"] == MACHINE_SPEC["provisioning"]
    condition = world.condition(MACHINE, "web", "ConfigurationApplied")
    assert (condition["status"], condition["reason"]) == ("False", "RestartRequired")
    assert condition["message"] == "wait for a restart: blockDevices, bootloader, provisioning"
    world.change(MACHINE, "web", MACHINE_SPEC | {"bootloader": "BIOS"})
    assert "restartAwaitingChanges" not in world.status(MACHINE, "web")
    assert world.condition(MACHINE, "web", "ConfigurationApplied")["status"] == "True"


def test_what_applies_at_once_asks_for_no_restart() -> None:
    world = World()
    running_machine(world)
    at_once = {
        "runPolicy": "AlwaysOn",
        "terminationGracePeriodSeconds": 5,
        "disruptions": {"restartApprovalMode": "Automatic"},
        "nodeSelector": {"disk": "ssd"},
        "priorityClassName": "high",
    }
    world.change(MACHINE, "web", at_once)
    assert world.status(MACHINE, "web")["phase"] == "Running"
    assert "restartAwaitingChanges" not in world.status(MACHINE, "web")


def test_the_pod_of_a_running_machine_has_its_present_labels() -> None:
    world = World()
    running_machine(world)
    name = {"vm.virtualization.deckhouse.io/name": "web"}

    def label(**labels: str | None) -> object:
        world.cluster.patch(MACHINE, "web", {"metadata": {"labels": labels}}, "default")
        world.settle()
        return world.get(POD, "vm-web")["metadata"]["labels"]

    assert label(app="shop", tier="front") == name | {"app": "shop", "tier": "front"}
    # What others put on the pod is theirs.
    world.cluster.patch(POD, "vm-web", {"metadata": {"labels": {"zone": "a"}}}, "default")
    assert label(app="blog", tier=None) == name | {"app": "blog", "zone": "a"}
    assert label(**{"app": None, "vm.virtualization.deckhouse.io/name": "other"}) == name | {"zone": "a"}


def grace_period_told(world: World) -> object:
    return json.loads(base64.b64decode(world.get(SECRET, "vm-web")["data"]["machine.json"]))["grace_period_s"]


@pytest.mark.parametrize("grace_period_s", [5, 600])
def test_a_running_machine_is_stopped_in_its_present_grace_period(grace_period_s: int) -> None:
    world = World()
    running_machine(world)
    before = world.get(SECRET, "vm-web")["data"]
    world.change(MACHINE, "web", {"terminationGracePeriodSeconds": grace_period_s})
    assert grace_period_told(world) == grace_period_s
    after = world.get(SECRET, "vm-web")["data"]
    assert json.loads(base64.b64decode(after["machine.json"])) == json.loads(
        base64.b64decode(before["machine.json"])
    ) | {"grace_period_s": grace_period_s}
    assert after | {"machine.json": ""} == before | {"machine.json": ""}

    operate(world, "Stop")

    assert world.get(POD, "vm-web")["metadata"]["deletionGracePeriodSeconds"] == grace_period_s + 15


def test_a_machine_that_is_deleted_is_stopped_in_its_present_grace_period() -> None:
    world = World()
    running_machine(world)
    world.change(MACHINE, "web", {"terminationGracePeriodSeconds": 600})
    world.delete(MACHINE, "web")
    assert world.get(POD, "vm-web")["metadata"]["deletionGracePeriodSeconds"] == 615


def test_a_grace_period_is_told_once_more_if_the_node_may_not_have_heard_of_it() -> None:
    world = World()
    running_machine(world)
    old = world.get(POD, "vm-web")
    world.change(MACHINE, "web", {"terminationGracePeriodSeconds": 600})
    changed = world.get(POD, "vm-web")
    # As if the controller had died between the two writes.
    world.cluster.restore(POD, old)
    world.settle()
    assert world.get(POD, "vm-web")["metadata"]["annotations"] == changed["metadata"]["annotations"]
    assert grace_period_told(world) == 600


def test_answer_files_for_windows_come_from_a_secret() -> None:
    world = World()
    running_machine(world, provisioning={"type": "SysprepSecret", "sysprepSecretRef": {"name": "s"}})
    assert world.condition(MACHINE, "web", "ProvisioningReady")["reason"] == "SecretNotFound"
    data = {"setup.ps1": base64.b64encode(b"echo").decode()}
    world.cluster.create(SECRET, {"metadata": {"name": "s", "namespace": "default"}, "data": data})
    world.settle()
    assert world.condition(MACHINE, "web", "ProvisioningReady")["reason"] == "SecretInvalid"
    answers = {"Autounattend.xml": base64.b64encode("<ü/>".encode("utf-16")).decode()}
    world.cluster.patch(SECRET, "s", {"data": answers}, "default")
    world.settle()
    spec = json.loads(base64.b64decode(world.get(SECRET, "vm-web")["data"]["machine.json"]))
    assert spec["sysprep"] == {"files": data | answers}
    assert spec["cloud_init"] is None


def test_an_end_counts_once_however_often_it_is_seen() -> None:
    world = World()
    running_machine(world)
    statuses = [{"name": "machine", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]
    world.cluster.set_status(POD, "vm-web", "default", phase="Failed", containerStatuses=statuses)
    pod = world.get(POD, "vm-web")
    world.settle()
    # As if the controller had died between the two writes: the pod is still there.
    world.cluster.restore(POD, pod)
    world.settle()
    assert world.status(MACHINE, "web")["power"]["crashes"] == 1
