from controller.launcher.spec import DiskSpec
from tests.unit.controller.test_launcher_argv import spec


def test_what_outlives_a_run_lies_beside_the_first_disk_that_is_a_file_and_stays() -> None:
    image = DiskSpec(name="i", kind="image")
    device = DiskSpec(name="b", kind="disk", path="/disks/block", device=True)
    attached = DiskSpec(name="a", kind="disk", path="/disks/attached/disk.qcow2", hotplug=True)
    disk = DiskSpec(name="d", kind="disk", path="/disks/root/disk.qcow2")

    assert spec(disks=(image, device, attached, disk)).kept_in == "/disks/root"
    assert spec(disks=(image, device, attached)).kept_in == "/tmp/dvcr"
