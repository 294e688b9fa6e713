"""Attachments: what is refused, what is waited for, and how disks come to machines, move and leave."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from controller.api.pod_claims import (
    CLAIMS_MOUNTED_CONDITION,
    AdditionalClaim,
    additional_claims,
    claims_of,
    released_claims,
)
from controller.api.resource import ATTACHMENT, DISK, MACHINE, OPERATION, POD, PVC, SECRET
from controller.launcher.spec import DiskSpec, DiskStatus, DiskWishes, MachineState, MachineStatus
from controller.machines.pod import APPLIED_ANNOTATION, applied_spec
from controller.runtime.index import Object
from tests.unit.controller.world import MemoryLaunchers, World

ADDRESSES = {"web": "127.64.0.2", "db": "127.64.0.3"}
GIB = 2**30


@dataclass
class Guests(MemoryLaunchers):
    """Launchers that plug at once what is mounted, and guests that let go of it unless they are stubborn."""

    disks: dict[str, dict[str, DiskStatus]] = field(default_factory=dict)
    stubborn: bool = False
    mounted: bool = True

    def boot(self, address: str, disks: list[DiskSpec]) -> None:
        self.disks[address] = {disk.name: _plugged(disk) for disk in disks}

    def read(self, pod: Object) -> MachineStatus | None:
        disks = tuple(self.disks.get(pod["status"].get("podIP"), {}).values())
        return MachineStatus(state=MachineState.RUNNING, disks=disks) if disks else None

    def want(self, pod: Object, wishes: DiskWishes) -> bool:
        has = self.disks[pod["status"]["podIP"]]
        wanted = {disk.name for disk in wishes.plugged}
        for name in [name for name, disk in has.items() if disk.hotplug and name not in wanted]:
            if self.stubborn:
                has[name] = has[name].model_copy(update={"message": "waits for the guest to let the disk go"})
            else:
                del has[name]
        for disk in wishes.plugged:
            if disk.name not in has or not has[disk.name].attached:
                has[disk.name] = _plugged(disk) if self.mounted else _unmounted(disk)
        for name, size in wishes.sizes_bytes.items():
            if name in has:
                has[name] = has[name].model_copy(update={"size_bytes": size})
        return True


def _plugged(disk: DiskSpec) -> DiskStatus:
    target = "vdx" if disk.hotplug else "vda"
    return DiskStatus(name=disk.name, size_bytes=disk.size_bytes, hotplug=disk.hotplug, target=target)


def _unmounted(disk: DiskSpec) -> DiskStatus:
    message = "waits for its volume to be mounted"
    return DiskStatus(name=disk.name, hotplug=True, attached=False, message=message)


@pytest.fixture
def guests() -> Guests:
    return Guests()


@pytest.fixture
def world(guests: Guests) -> World:
    """Two machines that run, each on a disk of its name, and the disk `data`."""
    world = World(launchers=guests)
    for name in ADDRESSES:
        disk(world, name)
        device = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": name}}
        world.apply(MACHINE, name, {"cpu": {"cores": 1}, "memory": {"size": "1Gi"}, "blockDevices": [device]})
        run(world, name)
    disk(world, "data")
    return world


def disk(world: World, name: str) -> None:
    world.apply(DISK, name, {"persistentVolumeClaim": {"size": "1Gi"}})
    world.bind(f"vmd-{name}")


def run(world: World, name: str) -> None:
    assert isinstance(world.launchers, Guests)
    secret = world.get(SECRET, f"vm-{name}")
    spec = json.loads(base64.b64decode(secret["data"]["machine.json"]))
    world.launchers.boot(ADDRESSES[name], [DiskSpec.model_validate(disk) for disk in spec["disks"]])
    world.run_pod(f"vm-{name}", ADDRESSES[name])


def settle(world: World) -> None:
    """Launchers do their part without a word in the cluster, so look again as the reconcilers do after a while."""
    for _ in range(4):
        world.settle()


def attach(world: World, name: str = "a", machine: str = "web", disk: str = "data") -> dict[str, Any]:
    device = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": disk}}
    world.apply(ATTACHMENT, name, {"virtualMachineName": machine, "blockDevice": device})
    return world.status(ATTACHMENT, name)


def reason(world: World, name: str = "a") -> tuple[str, str]:
    return world.status(ATTACHMENT, name)["phase"], world.condition(ATTACHMENT, name, "Attached")["reason"]


def message(world: World, name: str = "a") -> str:
    return str(world.condition(ATTACHMENT, name, "Attached")["message"])


def test_a_disk_is_attached_seen_in_the_machine_and_protected(world: World) -> None:
    status = attach(world)

    assert (status["phase"], status["virtualMachineName"]) == ("Attached", "web")
    assert message(world) == "the guest has the disk as vdx"
    pod = world.get(POD, "vm-web")
    assert additional_claims(pod) == {"vmd-data": AdditionalClaim(container="machine", mount_path="/disks/data")}
    assert claims_of(pod) == {"vmd-web", "vmd-data"}
    assert world.status(MACHINE, "web")["blockDevicesAttached"] == [
        {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "web"}, "target": "vda", "size": "1Gi",
         "hotpluggable": False},
        {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "data"}, "target": "vdx", "size": "1Gi",
         "hotpluggable": True},
    ]  # fmt: skip
    world.delete(DISK, "data")
    assert world.condition(DISK, "data", "Ready")["message"] == "waits for VirtualMachine 'web' to stop using the disk"
    world.delete(ATTACHMENT, "a")
    assert world.find(ATTACHMENT, "a") is None
    assert world.find(DISK, "data") is None


def test_deleting_an_attachment_waits_until_the_guest_has_let_the_disk_go(world: World, guests: Guests) -> None:
    attach(world)
    guests.stubborn = True
    assert world.delete(ATTACHMENT, "a") is not None
    assert reason(world)[1] == "Detaching"
    assert message(world) == "waits for the guest to let the disk go"
    assert "vmd-data" in claims_of(world.get(POD, "vm-web"))

    guests.stubborn = False
    settle(world)
    assert world.find(ATTACHMENT, "a") is None
    assert claims_of(world.get(POD, "vm-web")) == {"vmd-web"}
    assert len(world.status(MACHINE, "web")["blockDevicesAttached"]) == 1


def test_changing_the_machine_moves_the_disk_when_the_first_guest_has_let_it_go(world: World, guests: Guests) -> None:
    attach(world)
    guests.stubborn = True
    world.change(ATTACHMENT, "a", {"virtualMachineName": "db"})
    assert reason(world) == ("InProgress", "DiskInUse")
    assert message(world) == "waits until VirtualMachine 'web' does not use VirtualMachineDisk 'data' any more"
    assert guests.disks[ADDRESSES["db"]].keys() == {"vmd-db"}

    guests.stubborn = False
    settle(world)
    assert world.status(ATTACHMENT, "a")["virtualMachineName"] == "db"
    assert reason(world) == ("Attached", "Attached")
    assert guests.disks[ADDRESSES["db"]].keys() == {"vmd-db", "vmd-data"}
    assert guests.disks[ADDRESSES["web"]].keys() == {"vmd-web"}


def test_what_does_not_exist_or_is_not_ready_is_waited_for(world: World) -> None:
    attach(world, machine="mail", disk="later")
    assert reason(world) == ("InProgress", "VirtualMachineNotFound")
    world.change(ATTACHMENT, "a", {"virtualMachineName": "web"})
    assert reason(world) == ("InProgress", "DiskNotFound")
    world.apply(DISK, "later", {"persistentVolumeClaim": {"size": "1Gi"}})
    assert reason(world) == ("InProgress", "DiskNotReady")
    assert message(world) == "waits for VirtualMachineDisk 'later', which is not Ready yet"
    world.bind("vmd-later")
    assert reason(world) == ("Attached", "Attached")


def test_a_block_device_of_a_machine_is_refused(world: World) -> None:
    attach(world, disk="web")
    assert reason(world) == ("Failed", "DiskInMachineSpec")
    status = world.status(ATTACHMENT, "a")
    assert status["failureMessage"] == "VirtualMachineDisk 'web' is a block device of VirtualMachine 'web' already"
    world.change(ATTACHMENT, "a", {"virtualMachineName": "db"})
    assert reason(world) == ("Failed", "DiskAttachedElsewhere")
    assert message(world) == "VirtualMachineDisk 'web' is a block device of VirtualMachine 'web'"
    world.delete(ATTACHMENT, "a")
    assert world.find(ATTACHMENT, "a") is None, "what never was attached is not detached"


def test_of_two_attachments_the_one_that_has_the_disk_keeps_it_and_the_other_inherits_it(world: World) -> None:
    attach(world, "b", "web")
    attach(world, "a", "db")
    assert reason(world, "a") == ("Failed", "DiskAttachedElsewhere")
    expected = "VirtualMachineBlockDeviceAttachment 'b' attaches VirtualMachineDisk 'data' to VirtualMachine 'web'"
    assert message(world, "a") == expected
    attach(world, "c", "web")
    assert reason(world, "c") == ("Failed", "DiskAttachedElsewhere")

    world.delete(ATTACHMENT, "a")
    world.delete(ATTACHMENT, "b")
    assert world.find(ATTACHMENT, "b") is None
    assert reason(world, "c") == ("Attached", "Attached")


def test_a_machine_without_the_virtio_bus_is_refused(world: World) -> None:
    world.change(MACHINE, "web", {"enableParavirtualization": False})
    attach(world)
    assert reason(world) == ("Failed", "ParavirtualizationRequired")


def test_what_the_node_says_of_the_mount_is_told(world: World, guests: Guests) -> None:
    guests.mounted = False
    attach(world)
    assert reason(world) == ("InProgress", "Attaching")
    assert message(world) == (
        "waits for node 'node' to mount the volume; one without DVCR's agent does so at the next start"
    )
    conditions = world.get(POD, "vm-web")["status"]["conditions"]
    lost = {"type": CLAIMS_MOUNTED_CONDITION, "status": "False", "message": "it is on another node"}
    world.cluster.set_status(POD, "vm-web", "default", conditions=[*conditions, lost])
    world.settle()
    assert message(world) == "node 'node' cannot mount the volume: it is on another node"
    mounted = {"type": CLAIMS_MOUNTED_CONDITION, "status": "True"}
    world.cluster.set_status(POD, "vm-web", "default", conditions=[*conditions, mounted])
    world.settle()
    assert message(world) == "waits for its volume to be mounted"


def test_an_attached_disk_is_there_again_after_a_restart_and_can_be_detached_then(world: World) -> None:
    attach(world)
    world.apply(OPERATION, "restart", {"type": "Restart", "virtualMachineName": "web"})
    assert reason(world)[0] == "Attached"
    world.finish_deletion("vm-web")
    assert reason(world) == ("InProgress", "VirtualMachineNotRunning")
    pod = world.get(POD, "vm-web")
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v]
    assert claims == ["vmd-data", "vmd-web"]
    assert additional_claims(pod) == {}
    run(world, "web")
    assert reason(world) == ("Attached", "Attached")
    assert "restartAwaitingChanges" not in world.status(MACHINE, "web")

    world.change(ATTACHMENT, "a", {"virtualMachineName": "db"})
    assert world.status(ATTACHMENT, "a")["virtualMachineName"] == "db"
    pod = world.get(POD, "vm-web")
    assert (released_claims(pod), claims_of(pod)) == ({"vmd-data"}, {"vmd-web"})
    world.change(ATTACHMENT, "a", {"virtualMachineName": "web"})
    pod = world.get(POD, "vm-web")
    assert (released_claims(pod), additional_claims(pod), claims_of(pod)) == (set(), {}, {"vmd-web", "vmd-data"})
    assert reason(world) == ("Attached", "Attached")


def test_a_disk_that_joins_the_machines_spec_stays_plugged_until_the_restart_makes_it_a_part_of_it(
    world: World, guests: Guests
) -> None:
    attach(world)
    devices = [{"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": name}} for name in ("web", "data")]
    world.change(MACHINE, "web", {"blockDevices": devices})
    assert reason(world) == ("Attached", "Attached")
    world.apply(OPERATION, "restart", {"type": "Restart", "virtualMachineName": "web"})
    world.finish_deletion("vm-web")
    run(world, "web")
    assert reason(world) == ("Failed", "DiskInMachineSpec")
    assert [disk.hotplug for disk in guests.disks[ADDRESSES["web"]].values()] == [False, False]
    world.delete(ATTACHMENT, "a")
    assert world.find(ATTACHMENT, "a") is None


def test_growing_a_disk_grows_what_the_guest_sees_once_the_volume_has_grown(world: World, guests: Guests) -> None:
    attach(world)
    for name in ("web", "data"):
        world.change(DISK, name, {"persistentVolumeClaim": {"size": "2Gi"}})
        assert guests.disks[ADDRESSES["web"]][f"vmd-{name}"].size_bytes == GIB
        world.bind(f"vmd-{name}")
        assert guests.disks[ADDRESSES["web"]][f"vmd-{name}"].size_bytes == 2 * GIB
    assert [d["size"] for d in world.status(MACHINE, "web")["blockDevicesAttached"]] == ["2Gi", "2Gi"]


def test_a_machine_does_not_start_with_a_disk_that_another_one_has(world: World) -> None:
    attach(world)
    device = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "data"}}
    world.apply(MACHINE, "mail", {"cpu": {"cores": 1}, "memory": {"size": "1Gi"}, "blockDevices": [device]})
    condition = world.condition(MACHINE, "mail", "BlockDevicesReady")
    assert condition["reason"] == "DiskInUse"
    assert condition["message"] == "waits until VirtualMachine 'web' does not use VirtualMachineDisk 'data' any more"
    assert reason(world) == ("Attached", "Attached"), "it has the disk already"


def test_a_disk_on_a_device_is_named_as_one(world: World) -> None:
    claim = world.get(PVC, "vmd-data")
    claim["spec"]["volumeMode"] = "Block"
    world.cluster.update(PVC, claim)
    attach(world)
    named = additional_claims(world.get(POD, "vm-web"))
    assert named == {"vmd-data": AdditionalClaim(container="machine", device_path="/disks/data/disk.qcow2")}


def test_a_disk_follows_its_machine_to_another_node_and_is_detached_there(world: World, guests: Guests) -> None:
    attach(world)
    source = world.get(POD, "vm-web")
    volumes = [*source["spec"]["volumes"], {"name": "p", "persistentVolumeClaim": {"claimName": "vmd-data"}}]
    metadata = {key: source["metadata"][key] for key in ("namespace", "labels", "ownerReferences")}
    metadata |= {"name": "vm-web-1", "annotations": {APPLIED_ANNOTATION: json.dumps(applied_spec(source))}}
    world.cluster.create(POD, {"kind": "Pod", "metadata": metadata, "spec": {**source["spec"], "volumes": volumes}})
    guests.disks["127.64.0.9"] = guests.disks.pop(ADDRESSES["web"])
    world.cluster.set_status(MACHINE, "web", "default", activePod="vm-web-1")
    world.run_pod("vm-web-1", "127.64.0.9")
    world.cluster.delete(POD, "vm-web", "default", grace_period_s=0)
    world.settle()
    assert reason(world) == ("Attached", "Attached")
    assert claims_of(world.get(POD, "vm-web-1")) == {"vmd-web", "vmd-data"}

    world.delete(ATTACHMENT, "a")
    settle(world)
    assert world.find(ATTACHMENT, "a") is None
    assert claims_of(world.get(POD, "vm-web-1")) == {"vmd-web"}
