"""A small Linux guest for the demo and the tests: a disk that boots everywhere, built without root in about a second.

Debian's cloud kernel, static busybox and signed UEFI boot loaders come from the package archive, unpacked into a cache
folder; `guest_init.sh` is the whole user space. The disk has a FAT partition with the boot loaders, for BIOS and for
UEFI with and without secure boot, and an ext4 partition that counts its boots.

    python -m demo.guest --output guest.qcow2
"""

import argparse
import hashlib
import lzma
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from demo import disk
from demo.disk import MIB, GuestError, make_boot_disk, require_tools, run_tool

CLOUD_KERNEL, GENERIC_KERNEL = "linux-image-cloud-amd64", "linux-image-amd64"
BUSYBOX_PACKAGE = "busybox-static"
SHIM_PACKAGE, GRUB_PACKAGE = "shim-signed", "grub-efi-amd64-signed"
DRIVERS = ("virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "virtio_console", "virtio-rng", "sd_mod", "sr_mod")
# The cloud kernel has no driver for any of this hardware, and what else the other has as modules is a part of it.
HARDWARE = ("ahci", "e1000", "crc32c_generic", "ext4")
FILESYSTEMS = ("isofs", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8")
POWER_BUTTON = ("button", "evdev")
PANIC_DEVICE = ("pvpanic-mmio",)
INIT = Path(__file__).with_name("guest_init.sh")
DISK_SIZE_BYTES = 256 * MIB
BOOT_SIZE_BYTES = 48 * MIB
DEFAULT_CACHE_DIR = Path(__file__).parent.parent / ".cache" / "guest"

# mitigations=off and no quirks: the guest mostly runs under emulation. panic=-1 makes a crash a reset where no device
# tells of it.
# On a busy machine the kernel would take an emulated timer that ticks late for a broken one, and panic.
KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on no_timer_check"
BOOT_CONFIG = f"""\
DEFAULT linux
PROMPT 0
LABEL linux
  LINUX /vmlinuz
  INITRD /initrd
  APPEND {KERNEL_ARGUMENTS}
"""
UEFI_CONFIG = f"""\
linux /vmlinuz {KERNEL_ARGUMENTS}
initrd /initrd
boot
"""


def build(output: Path, cache_dir: Path = DEFAULT_CACHE_DIR, kernel_package: str = CLOUD_KERNEL) -> Path:
    """Write the guest's disk as qcow2 to `output`, atomically, and return `output`.

    With GENERIC_KERNEL, a package of 70 MB, the guest also runs without paravirtual devices.
    The same packages and the same sources give the same file; it is built once and then copied from `cache_dir`.
    Raises GuestError, which names the command that helps, when a tool or the package archive is missing.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    kernel = _unpacked_kernel(kernel_package, cache_dir)
    busybox = _unpacked(BUSYBOX_PACKAGE, cache_dir)
    shim, grub = _unpacked(SHIM_PACKAGE, cache_dir), _unpacked(GRUB_PACKAGE, cache_dir)
    names = (folder.name.encode() for folder in (kernel, busybox, shim, grub))
    identity = hashlib.sha256(b"\0".join((*names, *_sources()))).hexdigest()[:16]
    built = cache_dir / f"guest-{identity}.qcow2"
    if not built.exists():
        require_tools()
        with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
            _build_disk(Path(folder), kernel, busybox, shim, grub).replace(built)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    shutil.copyfile(built, partial)
    return partial.replace(output)


def _sources() -> Iterator[bytes]:
    yield INIT.read_bytes()
    yield Path(__file__).read_bytes()
    yield Path(disk.__file__).read_bytes()


def _unpacked_kernel(package: str, cache_dir: Path) -> Path:
    """As `_unpacked`, of the package with the kernel's version in its name, which `package` depends on."""
    flavour = package.removeprefix("linux-image")
    done = sorted(cache_dir.glob(f"linux-image-*[0-9]{flavour}_*.unpacked"))
    return done[-1] if done else _unpacked(package, cache_dir, dependency="linux-image-")


def _unpacked(package: str, cache_dir: Path, dependency: str = "") -> Path:
    """The folder with the files of `package`, or of the package that it depends on whose name begins so."""
    done = [] if dependency else sorted(cache_dir.glob(f"{package}*.unpacked"))
    if done:
        return done[-1]
    with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
        try:
            if dependency:
                depends = run_tool("apt-cache", "depends", package).decode().split()
                package = next(name for name in depends if name.startswith(dependency) and name != package)
            run_tool("apt-get", "download", package, cwd=Path(folder))
        except (GuestError, StopIteration) as exc:
            raise GuestError(
                f"cannot download {package}: run `apt-get update` as root, then try again ({exc})"
            ) from exc
        (archive,) = Path(folder).glob("*.deb")
        target = Path(folder) / "files"
        run_tool("dpkg", "-x", str(archive), str(target))
        unpacked = cache_dir / f"{archive.stem}.unpacked"
        try:
            return target.rename(unpacked)
        except OSError:
            # Another build at the same time was faster.
            if not unpacked.is_dir():
                raise
            return unpacked


def _build_disk(folder: Path, kernel: Path, busybox: Path, shim: Path, grub: Path) -> Path:
    raw, initrd = folder / "disk.raw", folder / "initrd"
    config, uefi_config = folder / "syslinux.cfg", folder / "grub.cfg"
    (vmlinuz,) = (kernel / "boot").glob("vmlinuz-*")
    initrd.write_bytes(_initramfs(kernel, busybox))
    config.write_text(BOOT_CONFIG)
    uefi_config.write_text(UEFI_CONFIG)
    files = {
        "vmlinuz": vmlinuz,
        "initrd": initrd,
        "syslinux.cfg": config,
        # Firmware starts BOOTX64.EFI, which checks and starts its neighbour, whose configuration is at a fixed place.
        "EFI/BOOT/BOOTX64.EFI": shim / "usr/lib/shim/shimx64.efi.signed",
        "EFI/BOOT/grubx64.efi": grub / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
        "EFI/debian/grub.cfg": uefi_config,
    }
    data_start_bytes = make_boot_disk(raw, DISK_SIZE_BYTES, BOOT_SIZE_BYTES, files)
    uuid = "44564352-0000-4000-8000-000000000001"
    options = f"offset={data_start_bytes},hash_seed={uuid}"
    size = f"{(DISK_SIZE_BYTES - data_start_bytes) // 1024}k"
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", "-L", "dvcr-data", "-U", uuid, "-E", options, str(raw), size)
    qcow2 = folder / "disk.qcow2"
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(qcow2))
    return qcow2


def _initramfs(kernel: Path, busybox: Path) -> bytes:
    """A cpio archive (newc) with busybox, the modules in an order in which they load, and init."""
    modules = _module_order(kernel)
    names = [path.name.removesuffix(".xz") for path in modules]
    archive = bytearray()
    archive += (
        _cpio_entry("dev", 0o040755, b"") + _cpio_entry("bin", 0o040755, b"") + _cpio_entry("modules", 0o040755, b"")
    )
    archive += _cpio_entry("init", 0o100755, INIT.read_bytes())
    archive += _cpio_entry("bin/busybox", 0o100755, _first(busybox, "bin/busybox", "usr/bin/busybox").read_bytes())
    archive += _cpio_entry("modules/order", 0o100644, "".join(f"{name}\n" for name in names).encode())
    for path, name in zip(modules, names, strict=True):
        data = path.read_bytes()
        archive += _cpio_entry(f"modules/{name}", 0o100644, lzma.decompress(data) if path.suffix == ".xz" else data)
    return bytes(archive + _cpio_entry("TRAILER!!!", 0, b""))


def _cpio_entry(name: str, mode: int, data: bytes) -> bytes:
    # Magic, then inode, mode, uid, gid, links, mtime, size, device and rdevice numbers, name length, checksum.
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return header + bytes(-len(header) % 4) + data + bytes(-len(data) % 4)


def _module_order(kernel: Path) -> list[Path]:
    """The files of the modules that the guest loads and of all they need, each after what it needs."""
    files = {path.name.split(".")[0].replace("-", "_"): path for path in kernel.glob("**/*.ko*")}
    order: dict[str, Path] = {}

    def add(names: Iterable[str]) -> None:
        for name in (name.replace("-", "_") for name in names):
            path = files.get(name)
            if path is None or name in order:
                continue
            add(_needs(path))
            order[name] = path

    add(DRIVERS + HARDWARE + FILESYSTEMS + POWER_BUTTON + PANIC_DEVICE)
    return list(order.values())


def _needs(module: Path) -> list[str]:
    # The package has no modules.dep (its postinst makes it); each module names what it needs in its .modinfo.
    data = module.read_bytes()
    for field in (lzma.decompress(data) if module.suffix == ".xz" else data).split(b"\0"):
        if field.startswith(b"depends="):
            return [name for name in field[len(b"depends=") :].decode().split(",") if name]
    return []


def _first(folder: Path, *names: str) -> Path:
    return next(folder / name for name in names if (folder / name).exists())


def main() -> None:
    parser = argparse.ArgumentParser(description="Build a small bootable Linux disk (qcow2).")
    parser.add_argument("--output", type=Path, required=True, help="the qcow2 file to write")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE_DIR, help="folder for packages and built disks")
    arguments = parser.parse_args()
    try:
        print(build(arguments.output, arguments.cache))
    except GuestError as exc:
        parser.exit(1, f"error: {exc}\n")


if __name__ == "__main__":
    main()
