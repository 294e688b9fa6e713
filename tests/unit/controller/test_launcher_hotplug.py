from pathlib import Path

import pytest

from controller.launcher.argv import Drive
from controller.launcher.hotplug import with_ports
from controller.launcher.spec import DiskSpec
from controller.launcher.targets import cold_targets, free_target
from dvcr.errors import ResourceError


def disk(name: str, **changes: object) -> DiskSpec:
    return DiskSpec.model_validate({"name": name, "kind": "disk", "path": f"/disks/{name}/disk.qcow2"} | changes)


def test_disks_get_the_first_free_ports_and_keep_those_that_they_have() -> None:
    disks = with_ports(
        [disk("root"), disk("a", hotplug=True), disk("b", hotplug=True, port=0), disk("c", hotplug=True)]
    )

    assert [d.port for d in disks] == [None, 1, 0, 2]


def test_more_disks_than_ports_are_refused() -> None:
    with pytest.raises(ResourceError, match="all 16 hotplug ports are taken"):
        with_ports([disk(f"d{n}", hotplug=True) for n in range(17)])


def drive(name: str, *, cdrom: bool = False, port: int | None = None) -> Drive:
    return Drive(name, Path(f"/{name}"), None, cdrom, port)


def test_the_guest_finds_the_disks_on_ports_after_all_others_and_the_seed() -> None:
    drives = [drive("b", port=1), drive("root"), drive("iso", cdrom=True), drive("data"), drive("a", port=0)]

    assert cold_targets(drives, paravirtualization=True, seed=True) == {
        "root": "vda", "iso": "sr0", "data": "vdb", "seed": "vdc", "a": "vdd", "b": "vde",
    }  # fmt: skip
    assert cold_targets([drive("root"), drive("a", port=0)], paravirtualization=False, seed=False) == {
        "root": "sda", "a": "vda",
    }  # fmt: skip


def test_a_plugged_disk_gets_the_lowest_name_that_is_free() -> None:
    assert free_target("vd", {"vda", "vdc"}) == "vdb"
    assert free_target("vd", {f"vd{chr(97 + n)}" for n in range(26)}) == "vdaa"
    assert free_target("sr", {"sr0"}) == "sr1"
