import json
from pathlib import Path

import pytest

from controller.launcher.firmware import find_firmware
from dvcr.errors import ConfigError, StorageError


def install(folder: Path, name: str, *features: str, arch: str = "x86_64", machine: str = "pc-q35-*") -> None:
    (folder / f"{name}.vars").write_bytes(name.encode())
    mapping = {
        "device": "flash",
        "executable": {"filename": f"/fw/{name}.code", "format": "raw"},
        "nvram-template": {"filename": str(folder / f"{name}.vars"), "format": "raw"},
    }
    descriptor = {
        "interface-types": ["uefi"],
        "mapping": mapping,
        "targets": [{"architecture": arch, "machines": [machine]}],
        "features": list(features),
    }
    (folder / f"{name}.json").write_text(json.dumps(descriptor))


@pytest.fixture
def installed(tmp_path: Path) -> tuple[Path]:
    folder = tmp_path / "firmware"
    folder.mkdir()
    install(folder, "10-arm", arch="aarch64", machine="virt-*")
    install(folder, "40-enrolled", "secure-boot", "enrolled-keys", "requires-smm")
    install(folder, "50-secure", "secure-boot", "requires-smm")
    install(folder, "60-plain", "acpi-s3")
    return (folder,)


def test_plain_uefi_has_no_secure_boot(installed: tuple[Path], tmp_path: Path) -> None:
    firmware = find_firmware("EFI", tmp_path / "kept", installed)

    assert (firmware.code, firmware.secure) == (Path("/fw/60-plain.code"), False)
    assert firmware.variables.read_bytes() == b"60-plain"


def test_secure_boot_has_its_keys_enrolled(installed: tuple[Path], tmp_path: Path) -> None:
    firmware = find_firmware("EFIWithSecureBoot", tmp_path / "kept", installed)

    assert (firmware.code, firmware.secure) == (Path("/fw/40-enrolled.code"), True)


def test_a_machines_own_variables_are_kept(installed: tuple[Path], tmp_path: Path) -> None:
    variables = find_firmware("EFI", tmp_path / "kept", installed).variables
    variables.write_bytes(b"60-mine!")

    assert find_firmware("EFI", tmp_path / "kept", installed).variables.read_bytes() == b"60-mine!"
    assert find_firmware("EFIWithSecureBoot", tmp_path / "kept", installed).variables.read_bytes() == b"40-enrolled"
    assert find_firmware("EFI", tmp_path / "kept", installed).variables.read_bytes() == b"60-mine!"


def test_variables_of_another_layout_begin_anew(installed: tuple[Path], tmp_path: Path) -> None:
    find_firmware("EFI", tmp_path / "kept", installed).variables.write_bytes(b"of another size")

    assert find_firmware("EFI", tmp_path / "kept", installed).variables.read_bytes() == b"60-plain"


def test_variables_that_the_machine_still_writes_are_not_replaced(installed: tuple[Path], tmp_path: Path) -> None:
    variables = find_firmware("EFI", tmp_path / "kept", installed, incoming=True).variables
    assert variables.read_bytes() == b"60-plain"
    variables.write_bytes(b"of another size")

    with pytest.raises(ConfigError, match="another one than the machine runs with: variables of 8 bytes instead of 15"):
        find_firmware("EFI", tmp_path / "kept", installed, incoming=True)

    assert variables.read_bytes() == b"of another size"


def test_a_folder_that_cannot_take_the_variables_is_named(installed: tuple[Path], tmp_path: Path) -> None:
    (tmp_path / "kept").touch()

    with pytest.raises(StorageError, match="cannot make the firmware's variables"):
        find_firmware("EFI", tmp_path / "kept", installed)


def test_without_firmware_the_error_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="install the package ovmf"):
        find_firmware("EFI", tmp_path / "kept", (tmp_path,))
