"""Which accelerator QEMU uses: KVM only where a guest truly runs on it.

A `/dev/kvm` that opens proves nothing: on some nested hosts guests hang or QEMU aborts. So a probe guest boots on it
once per boot of the host: firmware, then a boot sector that waits for timer interrupts and ends QEMU through a debug
device.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import structlog

from controller.launcher.argv import QEMU, file_set
from controller.launcher.confinement import KVM_DEVICE, Confinement

PROBE_TIMEOUT_S = 3.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# sti; three times hlt; mov al, 0x10; out 0xf4, al; then halt for ever. isa-debug-exit turns 0x10 into exit code 0x21.
_PROBE_CODE = bytes((0xFB, 0xF4, 0xF4, 0xF4, 0xB0, 0x10, 0xE6, 0xF4, 0xF4, 0xEB, 0xFD))
PROBE_BOOT_SECTOR = _PROBE_CODE.ljust(510, b"\0") + b"\x55\xaa"
PROBE_EXIT_CODE = 0x21
PROBE_DISK_SIZE_BYTES = 2**20

log = structlog.get_logger(__name__)


def choose_accelerator(
    wish: Literal["auto", "kvm", "tcg"], cache_dir: Path, confinement: Confinement
) -> Literal["kvm", "tcg"]:
    """The accelerator to use for a QEMU that is confined so; blocks.

    `auto` probes KVM once per boot of the host and keeps the answer in `cache_dir`, where it can.
    """
    if wish != "auto":
        return wish
    return "tcg" if kvm_trouble(cache_dir, confinement) else "kvm"


def kvm_trouble(cache_dir: Path, confinement: Confinement) -> str | None:
    """Why guests cannot run on KVM, None if they can; probed once per boot of the host and kept there. Blocks."""
    boot_id = BOOT_ID.read_text().strip()
    cache = cache_dir / "accelerator.json"
    try:
        kept = json.loads(cache.read_bytes())
    except FileNotFoundError:
        kept = None
    except OSError as exc:
        log.warning("cannot read what is known of KVM", path=str(cache), why=exc.strerror)
        kept = None
    if kept is not None and kept["bootId"] == boot_id:
        return None if kept["kvm"] else str(kept["why"] or "it was not usable")
    trouble = probe("kvm", confinement) if os.access(KVM_DEVICE, os.R_OK | os.W_OK) else "no access to /dev/kvm"
    log.info("probed KVM", usable=trouble is None, why=trouble or "")
    partial = cache_dir / f".accelerator.{os.getpid()}"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"bootId": boot_id, "kvm": trouble is None, "why": trouble or ""}))
        partial.replace(cache)
    except OSError as exc:
        # It was a cache: the next launcher asks again.
        log.warning("cannot keep what is known of KVM", path=str(cache), why=exc.strerror)
    return trouble


def probe(accelerator: Literal["kvm", "tcg"], confinement: Confinement) -> str | None:
    """None if a guest runs on the accelerator, else what went wrong. Blocks for at most PROBE_TIMEOUT_S."""
    with tempfile.NamedTemporaryFile(suffix=".probe") as disk:
        disk.write(PROBE_BOOT_SECTOR)
        # Firmware reads no disk that is too small for its geometry.
        disk.truncate(PROBE_DISK_SIZE_BYTES)
        command = [QEMU, "-accel", accelerator, "-machine", "q35", "-cpu", "host" if accelerator == "kvm" else "max"]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-m", "16", "-no-reboot"]
        command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        command += [
            "-add-fd",
            f"fd={disk.fileno()},set=1",
            "-drive",
            f"file={file_set(1)},format=raw,if=ide,auto-read-only=off",
        ]
        try:
            done = subprocess.run(
                confinement.command(command),
                capture_output=True,
                timeout=PROBE_TIMEOUT_S,
                check=False,
                pass_fds=(disk.fileno(),),
            )
        except subprocess.TimeoutExpired:
            return f"the probe guest did not run within {PROBE_TIMEOUT_S:g} s"
    if done.returncode == PROBE_EXIT_CODE:
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"the probe guest ended with exit code {done.returncode}"
