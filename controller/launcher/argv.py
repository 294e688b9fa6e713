"""The QEMU command line of a machine. Pure: the same input gives the same arguments; nothing is read or started.

The machine is a q35 without default devices. With paravirtualization disks are virtio-blk and CD-ROMs hang on a
virtio-scsi bus (Windows' installer has no driver for that, so there they are SATA); without it everything is SATA, but
for images that are no CD-ROMs, which are USB, and the network card is an e1000. Spare PCIe root ports stand ready for
disks that are attached later. What a machine does not use it does not have: every emulated device is code that a guest
can attack.

QEMU is handed its disks as open files, each in a set of its own: it may not be allowed to open them itself.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from controller.launcher import qcow2
from controller.launcher.processor import processor_argument
from controller.launcher.spec import TRANSLATION_BYTES, MachineSpec

QEMU = "qemu-system-x86_64"
QEMU_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(4 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20)}
"""A disk is copied through buffers of a megabyte, whose pages would be mapped and cleared anew for each."""
HOTPLUG_PORTS = 16
SATA_PORTS = 6
USB_PORTS = 15
"""Of each speed: the most that the controller has."""
MTU_BYTES = 65520
"""Of the guest's network: it ends in the launcher, so no packet of that size is ever on a wire."""
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Drive:
    """A block device that is ready to be opened by QEMU."""

    node: str
    """Name of the QEMU block node, and the serial number that the guest sees."""
    path: Path | None
    """The qcow2 that the guest writes; None: the drive is read-only, straight from `export`."""
    export: str | None
    """NBD export that shows the image: what the qcow2 still lacks, or the drive itself."""
    cdrom: bool = False
    port: int | None = None
    """The hotplug port that it sits on."""


@dataclass(frozen=True, slots=True)
class Firmware:
    """UEFI: the code, shared and read-only, and this machine's own variables."""

    code: Path
    variables: Path
    secure: bool


@dataclass(frozen=True, slots=True)
class Runtime:
    """What QEMU is given besides the specification. File descriptors are inherited; sockets are in a private folder."""

    accelerator: Literal["kvm", "tcg"]
    qmp_fd: int
    serial_fd: int
    nbd_socket: Path
    vnc_socket: Path
    agent_socket: Path
    drives: Sequence[Drive]
    open_files: Mapping[str, int] = field(default_factory=dict)
    """Of the drives that have a path, by the drives' nodes, and of the firmware's variables, by that node."""
    seed: Path | None = None
    """The NoCloud ISO."""
    sysprep: Path | None = None
    """The CD-ROM of Windows' setup."""
    firmware: Firmware | None = None
    netdev: str = "user,id=network"
    """The guest's network, by the id `network`."""


VARIABLES = "variables"
"""The node of the firmware's variables; those of drives are names of claims and images, each with its prefix."""


def node_name(name: str) -> str:
    """A name that QEMU takes for a node with room for a suffix, and a disk for a serial number: at most 20 characters.

    Distinct for distinct names; a short name that begins with a letter stays as it is.
    """
    if len(name) <= 20 and name[0].isalpha() and all(c.isascii() and (c.isalnum() or c in "-._") for c in name):
        return name
    return "d" + hashlib.sha256(name.encode()).hexdigest()[:19]


def qemu_arguments(spec: MachineSpec, runtime: Runtime) -> list[str]:
    """The whole command line, the program first. QEMU starts with the guest's processors stopped."""
    out = [QEMU, "-S", "-nodefaults", "-no-user-config", "-name", f"guest={spec.namespace}/{spec.name}"]
    out += ["-uuid", spec.uid] if _is_uuid(spec.uid) else []
    out += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    # Where from is told when all is ready to take the machine in.
    out += ["-incoming", "defer"] if spec.incoming else []
    # A reboot ends the process, so that the guest's wish is seen and a changed specification takes effect.
    # A kernel that panics says so through a device, and the process ends, as it does for a power-off.
    out += ["-action", "reboot=shutdown,panic=shutdown", "-device", "pvpanic"]
    block_devices = list(_block_devices(spec, runtime))
    out += _board(spec, runtime, sata=any("bus=ide." in argument for argument in block_devices))
    out += ["-chardev", f"socket,id=qmp,fd={runtime.qmp_fd}", "-mon", "chardev=qmp,mode=control"]
    out += ["-chardev", f"socket,id=console,fd={runtime.serial_fd}", "-serial", "chardev:console"]
    out += ["-display", "none", "-vnc", f"unix:{_escape(runtime.vnc_socket)}", "-device", "VGA"]
    out += _pointer(spec)
    out += ["-object", "rng-random,id=entropy,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=entropy"]
    out += ["-device", "virtio-serial-pci,id=channels"]
    out += ["-chardev", f"socket,id=agent,path={_escape(runtime.agent_socket)},server=on,wait=off"]
    out += ["-device", "virtserialport,bus=channels.0,chardev=agent,name=org.qemu.guest_agent.0"]
    out += ["-netdev", runtime.netdev, "-device", _network_card(spec, runtime)]
    out += block_devices
    out += _hotplug_ports()
    return out


def mac_address(uid: str) -> str:
    """A locally administered address that stays with the machine."""
    digest = hashlib.sha256(uid.encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def _network_card(spec: MachineSpec, runtime: Runtime) -> str:
    card = "virtio-net-pci" if spec.paravirtualization else "e1000"
    # The same on every network, or a machine could not move. Windows' driver is not known to take it.
    mtu = f",host_mtu={MTU_BYTES}" if spec.paravirtualization and spec.os_type != "Windows" else ""
    return f"{card},netdev=network,mac={mac_address(spec.uid)},romfile={mtu}"


def _board(spec: MachineSpec, runtime: Runtime, *, sata: bool) -> Iterator[str]:
    firmware = runtime.firmware
    machine = f"q35,vmport=off,smbus=off,sata={'on' if sata else 'off'}"
    if firmware:
        yield from (
            "-blockdev",
            _json(driver="file", filename=firmware.code, **{"node-name": "code", "read-only": True}),
        )
        yield from ("-add-fd", f"fd={runtime.open_files[VARIABLES]},set=0")
        yield from ("-blockdev", _json(driver="file", filename=file_set(0), **{"node-name": VARIABLES}))
        machine += f",pflash0=code,pflash1={VARIABLES}"
        if firmware.secure:
            machine += ",smm=on"
            # Only code in system management mode may write the variables; sleep would leave that door open.
            yield from ("-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1")
    windows = spec.os_type == "Windows"
    if windows:
        # It counts its time by the processor's clock, and HPET interrupts only cost.
        machine += ",hpet=off"
    yield from ("-machine", machine)
    yield from (
        "-accel",
        "kvm" if runtime.accelerator == "kvm" else f"tcg,thread=multi,tb-size={TRANSLATION_BYTES // MIB}",
    )
    yield from ("-cpu", processor_argument(spec.processor, runtime.accelerator, spec.os_type))
    yield from ("-smp", f"{spec.cores},sockets=1,cores={spec.cores},threads=1")
    yield from ("-m", f"{math.ceil(spec.memory_bytes / MIB)}M")
    yield from ("-rtc", "base=localtime,driftfix=slew" if windows else "base=utc")


def _pointer(spec: MachineSpec) -> Iterator[str]:
    """A tablet: a pointer that is where the viewer's is. Windows has no driver for the one that needs no USB."""
    if spec.paravirtualization and spec.os_type != "Windows":
        yield from ("-device", "virtio-tablet-pci")
    else:
        yield from ("-device", f"qemu-xhci,id=usb,p2={USB_PORTS},p3={USB_PORTS}", "-device", "usb-tablet,bus=usb.0")


def _block_devices(spec: MachineSpec, runtime: Runtime) -> Iterator[str]:
    scsi_cdrom = spec.paravirtualization and spec.os_type != "Windows"
    sata = _sata_ports()
    if scsi_cdrom and any(drive.cdrom for drive in runtime.drives):
        yield from ("-device", "virtio-scsi-pci,id=scsi")
    for index, drive in enumerate(runtime.drives, start=1):
        if drive.path is not None:
            yield from ("-add-fd", f"fd={runtime.open_files[drive.node]},set={index}")
        for node in blockdev_nodes(drive, runtime.nbd_socket, file_set(index)):
            yield from ("-blockdev", _json(**node))
        if drive.port is not None:
            yield from ("-device", _json(**hotplug_device(drive)))
            continue
        if drive.cdrom and scsi_cdrom:
            device = "scsi-cd,bus=scsi.0"
        elif spec.paravirtualization and not drive.cdrom:
            device = "virtio-blk-pci"
        elif drive.path is None and not drive.cdrom:
            # SATA knows no disk that is read-only.
            device = "usb-storage,bus=usb.0"
        else:
            arguments, bus = next(sata)
            yield from arguments
            device = f"{'ide-cd' if drive.cdrom else 'ide-hd'},bus={bus}"
        device += f",id={device_id(drive)},drive={drive.node},serial={drive.node},bootindex={index}"
        yield from ("-device", f"{device},werror=stop,rerror=stop")
    for name, path in (("seed", runtime.seed), ("sysprep", runtime.sysprep)):
        if path is None:
            continue
        file = {"driver": "file", "filename": path, "read-only": True}
        yield from ("-blockdev", _json(driver="raw", file=file, **{"node-name": name, "read-only": True}))
        if name == "seed" and scsi_cdrom:
            yield from ("-device", "virtio-blk-pci,id=device-seed,drive=seed")
        else:
            arguments, bus = next(sata)
            yield from arguments
            yield from ("-device", f"ide-cd,bus={bus},id=device-{name},drive={name}")


def file_set(number: int) -> str:
    """The name by which QEMU opens the file that it was given in this set."""
    return f"/dev/fdset/{number}"


def hotplug_device(drive: Drive) -> dict[str, Any]:
    """The arguments of `-device` or `device_add` for a disk on its hotplug port: the same however it came there."""
    return {
        "driver": "virtio-blk-pci",
        "id": device_id(drive),
        "bus": f"hotplug{drive.port}",
        "drive": drive.node,
        "serial": drive.node,
        "werror": "stop",
        "rerror": "stop",
    }


def device_id(drive: Drive) -> str:
    """QEMU's name of the drive's device."""
    return f"device-{drive.node}"


def blockdev_nodes(drive: Drive, nbd_socket: Path, file: str) -> Iterator[dict[str, Any]]:
    """The arguments of `-blockdev` or `blockdev-add` for the drive's nodes, the guest's own last.

    `file` is what QEMU calls the file at the drive's path. `<node>-image` is the NBD view of the image, `<node>-file`
    the qcow2's file. The backing is always stated, so that QEMU opens nothing that a header names.
    """
    if drive.export is not None:
        yield {
            "driver": "nbd",
            "node-name": f"{drive.node}-image" if drive.path else drive.node,
            "server": {"type": "unix", "path": str(nbd_socket)},
            "export": drive.export,
            "read-only": True,
        }
    if drive.path is not None:
        yield {
            "driver": qcow2.driver(drive.path),
            "node-name": f"{drive.node}-file",
            "filename": file,
            "discard": "unmap",
        }
        yield {
            "driver": "qcow2",
            "node-name": drive.node,
            "file": f"{drive.node}-file",
            "backing": f"{drive.node}-image" if drive.export is not None else None,
            "discard": "unmap",
            "detect-zeroes": "unmap",
        }


def _sata_ports() -> Iterator[tuple[list[str], str]]:
    """Free SATA ports, each with the arguments that bring its controller; the board has the first controller."""
    for port in range(SATA_PORTS):
        yield [], f"ide.{port}"
    for controller in range(1, 4):
        for port in range(SATA_PORTS):
            yield (["-device", f"ich9-ahci,id=sata{controller}"] if port == 0 else []), f"sata{controller}.{port}"


def _hotplug_ports() -> Iterator[str]:
    # Eight functions share a slot. No I/O ports are reserved: there are too few for so many bridges, and virtio on
    # PCIe needs none.
    for port in range(HOTPLUG_PORTS):
        slot, function = 0x1C + port // 8, port % 8
        address = f"addr={slot:#x}.{function}" + (",multifunction=on" if function == 0 else "")
        yield from ("-device", f"pcie-root-port,id=hotplug{port},chassis={port + 1},io-reserve=0,{address}")


def _json(**values: Any) -> str:
    return json.dumps(values, default=str)


def _escape(path: Path) -> str:
    return str(path).replace(",", ",,")


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
