"""A Debian 12 as its cloud images are: systemd, cloud-init, the guest agent and sshd. Made by mmdebstrap.

From the package archive that this machine uses. The same recipe and the same package versions are built once.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

from demo.disk import MIB, make_boot_disk, require_tools, run_tool

CACHE_DIR = Path(__file__).parents[3] / ".cache" / "debian"
SUITE = "bookworm"
PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "kmod", "iproute2", "cloud-init", "cloud-guest-utils"),
    *("qemu-guest-agent", "openssh-server", "linux-image-cloud-amd64"),
)
LEFT_OUT = ("usr/share/man", "usr/share/doc", "usr/share/locale")
ROOT_UUID = "44564352-0000-4000-8000-000000000012"
SIZE_BYTES, BOOT_SIZE_BYTES = 2048 * MIB, 96 * MIB
# As the small guest: emulated timers tick late on a busy machine.
BOOT_CONFIG = f"""\
DEFAULT linux
PROMPT 0
LABEL linux
  LINUX /vmlinuz
  INITRD /initrd
  APPEND root=UUID={ROOT_UUID} rw console=ttyS0 mitigations=off random.trust_cpu=on no_timer_check net.ifnames=0
"""
NETWORK = """\
[Match]
Type=ether
[Network]
DHCP=yes
"""
CLOUD = """\
datasource_list: [NoCloud]
network: {config: disabled}
locale: false
"""
# Runs in the new root before mmdebstrap ends: $1 is its folder.
FINISH = """\
set -e
cat > "$1/etc/systemd/network/20-ether.network" < {network}
cat > "$1/etc/cloud/cloud.cfg.d/90-dvcr.cfg" < {cloud}
chroot "$1" systemctl --quiet enable systemd-networkd
chroot "$1" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer systemd-networkd-wait-online.service
rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/etc/ssh/ssh_host_*
cp "$1"/boot/vmlinuz-* {folder}/vmlinuz
cp "$1"/boot/initrd.img-* {folder}/initrd
# Without what is mounted below it.
mkdir {folder}/root
mount --bind "$1" {folder}/root
trap 'umount {folder}/root' EXIT
mke2fs -q -F -t ext4 -L root -U {uuid} -d {folder}/root {folder}/root.ext4 {size_kib}k
"""


def build(cache_dir: Path = CACHE_DIR) -> Path:
    """The disk as qcow2 in `cache_dir`, built unless it is there. GuestError says what to install."""
    require_tools()
    require_tools({"mmdebstrap": "mmdebstrap"})
    versions = run_tool("apt-cache", "show", "--no-all-versions", *PACKAGES)
    lines = [line for line in versions.splitlines() if line.startswith((b"Package:", b"Version:"))]
    identity = hashlib.sha256(b"\n".join((*lines, Path(__file__).read_bytes()))).hexdigest()[:16]
    cache_dir.mkdir(parents=True, exist_ok=True)
    built = cache_dir / f"debian-{identity}.qcow2"
    if not built.exists():
        # Not below a folder that only this user may enter: mmdebstrap may become another one.
        with tempfile.TemporaryDirectory(prefix="dvcr-debian-", dir="/var/tmp") as folder:
            draft = cache_dir / f".{built.name}"
            shutil.copyfile(_build(Path(folder)), draft)
            draft.replace(built)
    return built


def _build(folder: Path) -> Path:
    folder.chmod(0o777)
    raw, qcow2, config = folder / "disk.raw", folder / "disk.qcow2", folder / "syslinux.cfg"
    network, cloud, finish = folder / "network", folder / "cloud", folder / "finish"
    for path, text in ((config, BOOT_CONFIG), (network, NETWORK), (cloud, CLOUD)):
        path.write_text(text)
    root_bytes = SIZE_BYTES - BOOT_SIZE_BYTES - MIB
    finish.write_text(
        "#!/bin/sh\n"
        + FINISH.format(network=network, cloud=cloud, folder=folder, uuid=ROOT_UUID, size_kib=root_bytes // 1024)
    )
    finish.chmod(0o755)
    sources = [str(path) for path in sorted(Path("/etc/apt").glob("sources.list*/*.sources"))]
    sources += [str(path) for path in sorted(Path("/etc/apt").glob("sources.list")) if path.stat().st_size]
    left_out = [f"--dpkgopt=path-exclude=/{path}/*" for path in LEFT_OUT]
    run_tool(
        *("mmdebstrap", "--quiet", "--variant=minbase", "--format=null", f"--include={','.join(PACKAGES)}", *left_out),
        *(f"--customize-hook={finish}", SUITE, "/dev/null", *sources),
    )
    start_bytes = make_boot_disk(
        raw,
        SIZE_BYTES,
        BOOT_SIZE_BYTES,
        {"vmlinuz": folder / "vmlinuz", "initrd": folder / "initrd", "syslinux.cfg": config},
    )
    with raw.open("r+b") as disk, (folder / "root.ext4").open("rb") as root:
        disk.seek(start_bytes)
        while data := root.read(4 * MIB):
            if data.count(0) == len(data):
                disk.seek(len(data), 1)
            else:
                disk.write(data)
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(qcow2))
    return qcow2
