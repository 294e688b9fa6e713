"""One test for each admission rule: the field's path and what the user is told."""

import copy
from typing import Any

import pytest

from controller.api.kinds import admit
from controller.api.resource import ATTACHMENT, CLUSTER_IMAGE, DISK, IMAGE, MACHINE, OPERATION, Resource

HTTP: dict[str, Any] = {"type": "HTTP", "http": {"url": "https://example.com/x.img"}}
DEVICE: dict[str, Any] = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "root"}}
MACHINE_SPEC: dict[str, Any] = {"cpu": {"cores": 1}, "memory": {"size": "1Gi"}, "blockDevices": [DEVICE]}


def make(resource: Resource, spec: dict[str, Any], name: str = "x") -> dict[str, Any]:
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": name},
        "spec": copy.deepcopy(spec),
    }


def fields(resource: Resource, spec: dict[str, Any], old: dict[str, Any] | None = None, name: str = "x") -> list[str]:
    before = make(resource, old) if old is not None else None
    return [error.field for error in admit(make(resource, spec, name), before)]


def image(**source: Any) -> dict[str, Any]:
    return {"dataSource": source}


@pytest.mark.parametrize(
    "source",
    [
        HTTP,
        {"type": "Upload"},
        {"type": "Upload", "upload": {"checksum": {"sha512": "a" * 128}}},
        {"type": "ContainerImage", "containerImage": {"image": "registry.example.com:5000/a/b:1.2"}},
        {"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": "a.b-c"}},
        {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "golden"}},
    ],
)
def test_good_sources_are_admitted(source: dict[str, Any]) -> None:
    assert fields(IMAGE, {"dataSource": source}) == []


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ({**HTTP, "containerImage": {"image": "a"}}, "spec.dataSource.containerImage"),
        ({"type": "HTTP"}, "spec.dataSource.http"),
        ({"type": "ContainerImage"}, "spec.dataSource.containerImage"),
        ({"type": "Nonsense"}, "spec.dataSource.type"),
        ({"type": "HTTP", "http": {"url": "ftp://example.com/x"}}, "spec.dataSource.http.url"),
        ({"type": "HTTP", "http": {"url": "http://"}}, "spec.dataSource.http.url"),
        ({"type": "HTTP", "http": {"url": "http://a b/"}}, "spec.dataSource.http.url"),
        ({"type": "HTTP", "http": {"url": "http://a:99999/"}}, "spec.dataSource.http.url"),
        ({"type": "HTTP", "http": {**HTTP["http"], "caBundle": "%%"}}, "spec.dataSource.http.caBundle"),
        ({"type": "ContainerImage", "containerImage": {"image": "UPPER/x y"}}, "spec.dataSource.containerImage.image"),
        ({"type": "VirtualMachineImage", "virtualMachineImage": {"name": "A"}},
         "spec.dataSource.virtualMachineImage.name"),
    ],
)  # fmt: skip
def test_bad_sources_are_refused(source: dict[str, Any], field: str) -> None:
    assert fields(IMAGE, {"dataSource": source}) == [field]


@pytest.mark.parametrize(("algorithm", "digits"), [("md5", 32), ("sha1", 40), ("sha256", 64), ("sha512", 128)])
def test_a_checksum_has_its_length_and_is_hexadecimal(algorithm: str, digits: int) -> None:
    def wrong(value: str) -> list[str]:
        return fields(IMAGE, image(type="HTTP", http={"url": "http://a/", "checksum": {algorithm: value}}))

    assert wrong("aB" * (digits // 2)) == []
    for bad in ("a" * (digits - 1), "g" * digits, ""):
        assert wrong(bad) == [f"spec.dataSource.http.checksum.{algorithm}"]


def test_references_of_the_cluster_kind_name_a_namespace() -> None:
    source = {"type": "VirtualMachineImage", "virtualMachineImage": {"name": "a"}}
    assert fields(CLUSTER_IMAGE, {"dataSource": source}) == ["spec.dataSource.virtualMachineImage.namespace"]
    assert fields(IMAGE, {"dataSource": source}) == []


def test_an_image_cannot_be_changed() -> None:
    assert fields(IMAGE, image(type="Upload"), old={"dataSource": HTTP}) == ["spec"]


def test_metadata_of_an_object_that_is_wrong_by_now_can_still_change() -> None:
    broken = image(type="HTTP", http={"url": "ftp://x"})
    assert fields(IMAGE, broken, old=broken) == []


def test_a_part_that_is_wrong_by_now_does_not_keep_the_others_from_changing() -> None:
    broken = {"type": "HTTP", "http": {"url": "ftp://x"}}
    old, new = ({"persistentVolumeClaim": {"size": size}, "dataSource": broken} for size in ("1Gi", "2Gi"))
    assert fields(DISK, new, old=old) == []


def test_a_claim_of_an_image_belongs_to_its_storage() -> None:
    spec = {"dataSource": HTTP, "persistentVolumeClaim": {"storageClassName": "fast"}}
    assert fields(IMAGE, spec) == ["spec.persistentVolumeClaim"]
    assert fields(IMAGE, {**spec, "storage": "PersistentVolumeClaim"}) == []


@pytest.mark.parametrize("size", ["", "ten", "1.2.3Gi", "-5Gi", "5 Gi", "0"])
def test_a_disk_needs_a_real_size(size: str) -> None:
    assert fields(DISK, {"persistentVolumeClaim": {"size": size}}) == ["spec.persistentVolumeClaim.size"]


def test_an_empty_disk_needs_a_size() -> None:
    assert fields(DISK, {"persistentVolumeClaim": {}}) == ["spec.persistentVolumeClaim.size"]
    assert fields(DISK, {"persistentVolumeClaim": {}, "dataSource": HTTP}) == []


def test_a_disk_cannot_be_made_of_a_disk() -> None:
    source = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "a"}}
    assert fields(DISK, {"persistentVolumeClaim": {}, "dataSource": source}) == ["spec.dataSource.type"]


def test_a_disk_changes_its_size_only_and_only_upwards() -> None:
    def disk(size: str | None, **more: Any) -> dict[str, Any]:
        claim = {"size": size} if size else {}
        return {"persistentVolumeClaim": claim | more}

    size = "spec.persistentVolumeClaim.size"
    assert fields(DISK, disk("2Gi"), old=disk("1Gi")) == []
    assert fields(DISK, disk("1024Mi"), old=disk("1Gi")) == []
    assert fields(DISK, disk("1023Mi"), old=disk("1Gi")) == [size]
    assert fields(DISK, {**disk(None), "dataSource": HTTP}, old={**disk("1Gi"), "dataSource": HTTP}) == [size]
    moved = disk("1Gi", storageClassName="fast")
    assert fields(DISK, moved, old=disk("1Gi")) == ["spec.persistentVolumeClaim.storageClassName"]
    assert fields(DISK, {**disk("1Gi"), "dataSource": HTTP}, old=disk("1Gi")) == ["spec.dataSource"]


def test_a_disk_whose_size_came_from_its_image_cannot_shrink_below_it() -> None:
    old = make(DISK, {"persistentVolumeClaim": {}, "dataSource": HTTP}) | {"status": {"capacity": "1Gi"}}
    new = make(DISK, {"persistentVolumeClaim": {"size": "1Mi"}, "dataSource": HTTP})
    assert [error.field for error in admit(new, old)] == ["spec.persistentVolumeClaim.size"]


def test_a_machine_name_fits_a_host_name() -> None:
    assert fields(MACHINE, MACHINE_SPEC, name="x" * 63) == []
    assert fields(MACHINE, MACHINE_SPEC, name="x" * 64) == ["metadata.name"]


@pytest.mark.parametrize(
    ("resource", "spec", "length"),
    [
        (DISK, {"persistentVolumeClaim": {"size": "1Gi"}}, 249),
        (CLUSTER_IMAGE, {"dataSource": HTTP}, 250),
        (IMAGE, {"dataSource": HTTP}, 187),
    ],
)
def test_a_name_leaves_room_for_what_is_named_after_it(resource: Resource, spec: dict[str, Any], length: int) -> None:
    assert fields(resource, spec, name="x" * length) == []
    assert fields(resource, spec, name="x" * (length + 1)) == ["metadata.name"]


def devices(*names: str) -> dict[str, Any]:
    made = [{"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": name}} for name in names]
    return {**MACHINE_SPEC, "blockDevices": made}


def test_block_devices_are_one_to_sixteen() -> None:
    assert fields(MACHINE, devices(*(f"d{n}" for n in range(16)))) == []
    assert fields(MACHINE, devices(*(f"d{n}" for n in range(17)))) == ["spec.blockDevices"]
    assert fields(MACHINE, devices()) == ["spec.blockDevices"]


def test_a_block_device_appears_once() -> None:
    assert fields(MACHINE, devices("a", "b", "a")) == ["spec.blockDevices[2].virtualMachineDisk.name"]
    other = {"type": "VirtualMachineImage", "virtualMachineImage": {"name": "root"}}
    assert fields(MACHINE, {**MACHINE_SPEC, "blockDevices": [DEVICE, other]}) == []


def test_a_block_device_has_the_block_of_its_type() -> None:
    spec = {**MACHINE_SPEC, "blockDevices": [{**DEVICE, "type": "VirtualMachineImage"}]}
    assert fields(MACHINE, spec) == [
        "spec.blockDevices[0].virtualMachineImage",
        "spec.blockDevices[0].virtualMachineDisk",
    ]


def test_provisioning_is_exactly_one() -> None:
    def wrong(**provisioning: Any) -> list[str]:
        return fields(MACHINE, {**MACHINE_SPEC, "provisioning": provisioning})

    assert wrong(type="UserData", userData="#cloud-config") == []
    assert wrong(type="UserDataSecret", userDataSecretRef={"name": "s"}) == []
    assert wrong(type="UserData") == ["spec.provisioning.userData"]
    both = wrong(type="UserData", userData="x", sysprepSecretRef={"name": "s"})
    assert both == ["spec.provisioning.sysprepSecretRef"]


def test_memory_and_cores_are_checked() -> None:
    assert fields(MACHINE, {**MACHINE_SPEC, "memory": {"size": "much"}}) == ["spec.memory.size"]
    assert fields(MACHINE, {**MACHINE_SPEC, "cpu": {"cores": 0}}) == ["spec.cpu.cores"]
    assert fields(MACHINE, {**MACHINE_SPEC, "cpu": {"cores": 1, "coreFraction": "30%"}}) == ["spec.cpu.coreFraction"]


def test_an_operation_is_immutable_and_start_has_no_force() -> None:
    stop = {"type": "Stop", "virtualMachineName": "web"}
    assert fields(OPERATION, {**stop, "force": True}) == []
    assert fields(OPERATION, {**stop, "type": "Start", "force": True}) == ["spec.force"]
    assert fields(OPERATION, {**stop, "type": "Start"}, old=stop) == ["spec"]


def test_other_kinds_are_none_of_our_business() -> None:
    assert admit({"apiVersion": "v1", "kind": "VirtualMachine", "metadata": {"name": "x"}, "spec": {}}, None) == []


def test_an_attachment_names_a_disk_that_stays_and_a_machine_that_may_change() -> None:
    good: dict[str, Any] = {"virtualMachineName": "web", "blockDevice": DEVICE}
    assert fields(ATTACHMENT, good) == []
    assert fields(ATTACHMENT, {**good, "virtualMachineName": "db"}, old=good) == []
    other = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": "data"}}
    assert fields(ATTACHMENT, {**good, "blockDevice": other}, old=good) == ["spec.blockDevice"]
    assert fields(ATTACHMENT, {**good, "virtualMachineName": "A B"}) == ["spec.virtualMachineName"]
    missing = {**good, "blockDevice": {"type": "VirtualMachineDisk"}}
    assert fields(ATTACHMENT, missing) == ["spec.blockDevice.virtualMachineDisk"]
    image_device = {"type": "VirtualMachineImage", "virtualMachineImage": {"name": "x"}}
    assert fields(ATTACHMENT, {**good, "blockDevice": image_device}) == ["spec.blockDevice.type"]
