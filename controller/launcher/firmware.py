"""UEFI firmware, found through the descriptors that its packages install for QEMU (its docs/interop/firmware.json)."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from controller.launcher.argv import Firmware
from dvcr.errors import ConfigError

DESCRIPTORS = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))


def find_firmware(
    bootloader: Literal["EFI", "EFIWithSecureBoot"], variables: Path, descriptors: tuple[Path, ...] = DESCRIPTORS
) -> Firmware:
    """The firmware for that boot loader; its variables are copied to `variables` unless that file is there already.

    Raises ConfigError when none is installed.
    """
    secure = bootloader == "EFIWithSecureBoot"
    for path in sorted((path for folder in descriptors for path in folder.glob("*.json")), key=lambda path: path.name):
        descriptor = json.loads(path.read_bytes())
        if _fits(descriptor, secure):
            mapping = descriptor["mapping"]
            if not variables.exists():
                shutil.copyfile(mapping["nvram-template"]["filename"], variables)
            return Firmware(Path(mapping["executable"]["filename"]), variables, secure)
    raise ConfigError(f"no UEFI firmware for bootloader {bootloader}; install the package ovmf", reason="NoFirmware")


def _fits(descriptor: dict[str, Any], secure: bool) -> bool:
    features = set(descriptor["features"])
    return (
        "uefi" in descriptor["interface-types"]
        and descriptor["mapping"]["device"] == "flash"
        and any(
            target["architecture"] == "x86_64" and any("q35" in machine for machine in target["machines"])
            for target in descriptor["targets"]
        )
        and ({"secure-boot", "enrolled-keys"} <= features if secure else "secure-boot" not in features)
    )
