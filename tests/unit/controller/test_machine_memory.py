"""The memory of a machine's pod grows with what its launcher holds of images."""

import pytest

from controller.api.machine import AttachedDevice, BlockDeviceType
from controller.launcher.spec import TRANSLATION_BYTES, DiskSpec
from controller.machines.launch import Device
from controller.machines.memory import LAUNCHER_BYTES, chunk_memory_bytes, pod_memory_bytes

MIB, GIB, TIB = 2**20, 2**30, 2**40


def device(image_bytes: int) -> Device:
    attached = AttachedDevice(type=BlockDeviceType.DISK)
    return Device(DiskSpec(name="x", kind="disk"), attached, image_bytes=image_bytes)


@pytest.mark.parametrize(
    ("images", "expected_mib"),
    [
        ([], 48),
        ([0, 0], 48),
        ([10 * GIB], 48),
        # Two chunks of 4 MiB each.
        ([10 * GIB] * 16, 128),
        # Two of 128 MiB.
        ([2 * TIB], 256),
        ([2 * TIB, 10 * GIB], 264),
    ],
)
def test_of_every_image_two_chunks_fit(images: list[int], expected_mib: int) -> None:
    held = chunk_memory_bytes(map(device, images))
    assert held == expected_mib * MIB
    assert pod_memory_bytes(GIB, held, may_emulate=False) == GIB + LAUNCHER_BYTES + 2 * held


def test_where_there_may_be_no_kvm_translated_code_has_room() -> None:
    on_kvm = pod_memory_bytes(GIB, 48 * MIB, may_emulate=False)

    assert pod_memory_bytes(GIB, 48 * MIB, may_emulate=True) == on_kvm + TRANSLATION_BYTES == on_kvm + 128 * MIB
