"""UEFI firmware, found through the descriptors that its packages install for QEMU (its docs/interop/firmware.json)."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from controller.launcher.argv import Firmware
from dvcr.errors import ConfigError, StorageError

VARIABLES, SECURE_VARIABLES = "uefi-variables.fd", "uefi-secure-variables.fd"
DESCRIPTORS = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))


def find_firmware(
    bootloader: Literal["EFI", "EFIWithSecureBoot"],
    folder: Path,
    descriptors: tuple[Path, ...] = DESCRIPTORS,
    *,
    incoming: bool = False,
) -> Firmware:
    """The firmware for that boot loader, with the machine's variables in `folder`.

    The file of variables is that of an earlier run, if the firmware is still of the same layout; else it is made, whole
    or not at all. Each boot loader has its own. That of a machine that is `incoming` is still written where the machine
    runs, and is never replaced. Raises ConfigError where no such firmware is installed, or only one of another layout
    than the machine comes with; StorageError if the folder cannot take the file.
    """
    secure = bootloader == "EFIWithSecureBoot"
    for path in sorted((path for folder in descriptors for path in folder.glob("*.json")), key=lambda path: path.name):
        descriptor = json.loads(path.read_bytes())
        if _fits(descriptor, secure):
            mapping = descriptor["mapping"]
            variables = folder / (SECURE_VARIABLES if secure else VARIABLES)
            _keep(variables, Path(mapping["nvram-template"]["filename"]), incoming=incoming)
            return Firmware(Path(mapping["executable"]["filename"]), variables, secure)
    raise ConfigError(f"no UEFI firmware for bootloader {bootloader}; install the package ovmf", reason="NoFirmware")


def _keep(variables: Path, template: Path, *, incoming: bool) -> None:
    """QEMU gives the guest as much flash as the file has bytes, so one of another size is another firmware's."""
    try:
        if variables.exists():
            has, new_has = variables.stat().st_size, template.stat().st_size
            if has == new_has:
                return
            if incoming:
                raise ConfigError(
                    f"the node's UEFI firmware is another one than the machine runs with: variables of {new_has} bytes"
                    f" instead of {has}; install the same version of the package ovmf on both nodes",
                    reason="OtherFirmware",
                )
        variables.parent.mkdir(parents=True, exist_ok=True)
        new = variables.with_suffix(".new")
        shutil.copyfile(template, new)
        new.replace(variables)
    except OSError as exc:
        raise StorageError(f"cannot make the firmware's variables {variables}: {exc.strerror}") from exc


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
