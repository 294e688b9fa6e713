"""The exact command line: whatever changes in it changes the guest's hardware."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from controller.launcher.argv import (
    VARIABLES,
    Drive,
    Firmware,
    Runtime,
    blockdev_nodes,
    file_set,
    hotplug_device,
    mac_address,
    node_name,
    qemu_arguments,
)
from controller.launcher.spec import MachineSpec

RUN = Path("/run/dvcr")
SYSTEM = Drive("system", Path("/disks/system/disk.qcow2"), "sha256:aa")
UID = "7f4d3c1a-0000-4000-8000-000000000001"


def spec(**changes: object) -> MachineSpec:
    values = {"name": "web", "namespace": "prod", "uid": UID, "cores": 2, "memory_bytes": 2**30, "disks": ()}
    return MachineSpec.model_validate(values | changes)


def runtime(*drives: Drive, **changes: object) -> Runtime:
    values: dict[str, object] = {
        "accelerator": "tcg",
        "qmp_fd": 5,
        "serial_fd": 6,
        "nbd_socket": RUN / "nbd.sock",
        "vnc_socket": RUN / "vnc.sock",
        "agent_socket": RUN / "agent.sock",
        "drives": drives,
        "open_files": {drive.node: 10 + index for index, drive in enumerate(drives) if drive.path},
    }
    return Runtime(**(values | changes))  # type: ignore[arg-type]  # a table of fields


def values_of(arguments: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(arguments) if name == option]


def devices(arguments: list[str], prefix: str) -> list[str]:
    return [value for value in values_of(arguments, "-device") if value.startswith(prefix)]


def test_the_whole_command_line_of_a_plain_machine() -> None:
    arguments = qemu_arguments(spec(), runtime(SYSTEM, seed=RUN / "seed.iso"))

    ports = arguments.index("pcie-root-port,id=hotplug0,chassis=1,io-reserve=0,addr=0x1c.0,multifunction=on") - 1
    assert arguments[:ports] == [
        "qemu-system-x86_64", "-S", "-nodefaults", "-no-user-config",
        "-name", "guest=prod/web",
        "-uuid", UID,
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-action", "reboot=shutdown,panic=shutdown", "-device", "pvpanic",
        "-machine", "q35,vmport=off,smbus=off,sata=off",
        "-accel", "tcg,thread=multi,tb-size=128", "-cpu", "max",
        "-smp", "2,sockets=1,cores=2,threads=1",
        "-m", "1024M",
        "-rtc", "base=utc",
        "-chardev", "socket,id=qmp,fd=5", "-mon", "chardev=qmp,mode=control",
        "-chardev", "socket,id=console,fd=6", "-serial", "chardev:console",
        "-display", "none", "-vnc", "unix:/run/dvcr/vnc.sock", "-device", "VGA",
        "-device", "virtio-tablet-pci",
        "-object", "rng-random,id=entropy,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=entropy",
        "-device", "virtio-serial-pci,id=channels",
        "-chardev", "socket,id=agent,path=/run/dvcr/agent.sock,server=on,wait=off",
        "-device", "virtserialport,bus=channels.0,chardev=agent,name=org.qemu.guest_agent.0",
        "-netdev", "user,id=network",
        "-device", f"virtio-net-pci,netdev=network,mac={mac_address(UID)},romfile=,host_mtu=65520",
        "-add-fd", "fd=10,set=1",
        "-blockdev", (
            '{"driver": "nbd", "node-name": "system-image", "server": {"type": "unix", "path": "/run/dvcr/nbd.sock"}, '
            '"export": "sha256:aa", "read-only": true}'
        ),
        "-blockdev", (
            '{"driver": "file", "node-name": "system-file", "filename": "/dev/fdset/1", "discard": "unmap"}'
        ),
        "-blockdev", (
            '{"driver": "qcow2", "node-name": "system", "file": "system-file", "backing": "system-image", '
            '"discard": "unmap", "detect-zeroes": "unmap"}'
        ),
        "-device", "virtio-blk-pci,id=device-system,drive=system,serial=system,bootindex=1,werror=stop,rerror=stop",
        "-blockdev", (
            '{"driver": "raw", "file": {"driver": "file", "filename": "/run/dvcr/seed.iso", "read-only": true}, '
            '"node-name": "seed", "read-only": true}'
        ),
        "-device", "virtio-blk-pci,id=device-seed,drive=seed",
    ]  # fmt: skip
    assert len(devices(arguments, "pcie-root-port")) == 16
    assert len(arguments) == ports + 32


def test_boot_order_is_the_order_of_the_devices() -> None:
    installer = Drive("installer", None, "sha256:bb", cdrom=True)

    arguments = qemu_arguments(spec(), runtime(installer, SYSTEM))

    assert devices(arguments, "scsi-cd") == [
        "scsi-cd,bus=scsi.0,id=device-installer,drive=installer,serial=installer,bootindex=1,werror=stop,rerror=stop"
    ]
    assert "bootindex=2" in devices(arguments, "virtio-blk-pci,id=device-system")[0]


def test_without_paravirtualization_disks_are_sata_over_several_controllers_and_the_card_is_an_e1000() -> None:
    drives = [Drive(f"d{n}", Path(f"/disks/{n}"), None) for n in range(8)]

    arguments = qemu_arguments(spec(paravirtualization=False), runtime(*drives, seed=RUN / "seed.iso"))

    buses = [value.split(",")[1] for value in devices(arguments, "ide-")]
    assert buses == [f"bus=ide.{n}" for n in range(6)] + [f"bus=sata1.{n}" for n in range(3)]
    assert devices(arguments, "ich9-ahci") == ["ich9-ahci,id=sata1"]
    assert devices(arguments, "e1000")
    assert not [d for d in devices(arguments, "virtio") if d.startswith(("virtio-blk", "virtio-net", "virtio-scsi"))]


def test_windows_finds_its_cdrom_on_sata_and_its_clock_in_local_time() -> None:
    arguments = qemu_arguments(spec(os_type="Windows"), runtime(Drive("iso", None, "sha256:bb", cdrom=True)))

    assert devices(arguments, "ide-cd,bus=ide.0")
    assert values_of(arguments, "-rtc") == ["base=localtime,driftfix=slew"]
    assert values_of(arguments, "-machine") == ["q35,vmport=off,smbus=off,sata=on,hpet=off"]


def test_windows_finds_its_answer_file_on_a_cdrom_behind_the_installer() -> None:
    iso = Drive("iso", None, "sha256:bb", cdrom=True)

    arguments = qemu_arguments(spec(os_type="Windows"), runtime(iso, SYSTEM, sysprep=RUN / "sysprep.iso"))

    assert devices(arguments, "ide-cd,bus=ide.1") == ["ide-cd,bus=ide.1,id=device-sysprep,drive=sysprep"]
    assert devices(arguments, "virtio-blk-pci,id=device-system")


def test_sixteen_sata_disks_fit() -> None:
    drives = [Drive(f"d{n}", Path(f"/disks/{n}"), None) for n in range(16)]

    arguments = qemu_arguments(spec(paravirtualization=False), runtime(*drives))

    assert len(devices(arguments, "ide-hd")) == 16
    assert devices(arguments, "ich9-ahci") == ["ich9-ahci,id=sata1", "ich9-ahci,id=sata2"]


def test_secure_boot_locks_the_variables_behind_system_management_mode() -> None:
    firmware = Firmware(Path("/fw/code.fd"), RUN / "vars.fd", secure=True)

    files = {VARIABLES: 20}
    arguments = qemu_arguments(spec(bootloader="EFIWithSecureBoot"), runtime(firmware=firmware, open_files=files))

    assert values_of(arguments, "-machine") == [
        "q35,vmport=off,smbus=off,sata=off,pflash0=code,pflash1=variables,smm=on"
    ]
    assert "driver=cfi.pflash01,property=secure,value=on" in values_of(arguments, "-global")
    code, variables = (json.loads(value) for value in values_of(arguments, "-blockdev"))
    assert code["read-only"]
    assert "read-only" not in variables
    assert variables["filename"] == file_set(0)
    assert values_of(arguments, "-add-fd") == ["fd=20,set=0"]


def test_kvm_gives_the_host_processor() -> None:
    arguments = qemu_arguments(spec(), runtime(accelerator="kvm"))

    assert values_of(arguments, "-accel") == ["kvm"]
    assert values_of(arguments, "-cpu") == ["host"]


def test_a_disk_that_stands_alone_names_no_backing() -> None:
    *_, disk = blockdev_nodes(Drive("data", Path("/disks/data"), None), RUN / "nbd.sock", file_set(1))

    assert disk["backing"] is None


def test_an_image_is_read_only_from_the_registry() -> None:
    (node,) = blockdev_nodes(Drive("tools", None, "sha256:cc"), RUN / "nbd.sock", file_set(1))

    assert (node["driver"], node["node-name"], node["read-only"]) == ("nbd", "tools", True)


def test_what_needs_usb_or_sata_gets_it() -> None:
    plain = qemu_arguments(spec(paravirtualization=False), runtime(SYSTEM))
    windows = qemu_arguments(spec(os_type="Windows"), runtime(SYSTEM))

    assert devices(plain, "usb-tablet")
    assert values_of(plain, "-machine") == ["q35,vmport=off,smbus=off,sata=on"]
    assert devices(windows, "usb-tablet")
    assert values_of(windows, "-machine") == ["q35,vmport=off,smbus=off,sata=off,hpet=off"]


def test_memory_is_rounded_up_to_what_qemu_takes() -> None:
    assert values_of(qemu_arguments(spec(memory_bytes=2**30 + 1), runtime()), "-m") == ["1025M"]


def test_commas_in_paths_do_not_become_options() -> None:
    arguments = qemu_arguments(spec(), runtime(agent_socket=Path("/run/a,path=b")))

    assert "socket,id=agent,path=/run/a,,path=b,server=on,wait=off" in values_of(arguments, "-chardev")


@pytest.mark.parametrize("name", ["system", "a", "data-disk.01_x", "x" * 20])
def test_good_names_stay(name: str) -> None:
    assert node_name(name) == name


def test_other_names_become_distinct_and_fit_a_serial_number() -> None:
    names = ["0abc", "x" * 21, "x" * 22, "a b", "ü"]
    nodes = {node_name(name) for name in names}

    assert len(nodes) == len(names)
    assert all(len(node) <= 20 and node.isalnum() and node[0] == "d" for node in nodes)


def test_the_hardware_address_stays_with_the_machine() -> None:
    assert mac_address(UID) == mac_address(UID)
    assert mac_address(UID) != mac_address("another")
    assert mac_address(UID).startswith("52:54:00:")


def test_a_disk_on_a_port_is_no_boot_device_and_looks_the_same_however_it_came_there() -> None:
    data = Drive("data", Path("/disks/data/disk.qcow2"), None, port=3)

    arguments = qemu_arguments(spec(), runtime(SYSTEM, data))

    (device,) = devices(arguments, '{"driver": "virtio-blk-pci"')
    assert json.loads(device) == hotplug_device(data)
    assert hotplug_device(data) == {
        "driver": "virtio-blk-pci", "id": "device-data", "bus": "hotplug3", "drive": "data", "serial": "data",
        "werror": "stop", "rerror": "stop",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "card"),
    [
        ({}, "virtio-net-pci,netdev=network,mac={mac},romfile=,host_mtu=65520"),
        ({"os_type": "Windows"}, "virtio-net-pci,netdev=network,mac={mac},romfile="),
        ({"paravirtualization": False}, "e1000,netdev=network,mac={mac},romfile="),
    ],
)
def test_the_network_is_the_launchers_and_the_card_knows_its_mtu(changes: dict[str, object], card: str) -> None:
    netdev = "stream,id=network,server=off,addr.type=fd,addr.str=9"
    arguments = qemu_arguments(spec(**changes), runtime(netdev=netdev))

    assert values_of(arguments, "-netdev") == [netdev]
    assert card.format(mac=mac_address(UID)) in values_of(arguments, "-device")
