"""The memory that a machine's pod needs. Pure."""

from collections.abc import Iterable

from controller.launcher.spec import TRANSLATION_BYTES
from controller.machines.launch import Device
from dvcr.artifact.image import chunk_size_bytes

LAUNCHER_BYTES = 224 * 2**20
"""For the launcher, QEMU without the guest's memory, passt, and the chunks of a disk that becomes an image."""
_CHUNKS_BYTES = 48 * 2**20


def chunk_memory_bytes(devices: Iterable[Device]) -> int:
    """What the launcher may hold of its images' chunks: two of every image at least; large images have large ones."""
    return max(_CHUNKS_BYTES, sum(2 * chunk_size_bytes(device.image_bytes) for device in devices if device.image_bytes))


def pod_memory_bytes(guest_bytes: int, chunk_memory: int, *, may_emulate: bool) -> int:
    """The pod's limit: for the guest, for the launcher, and for chunks that are held and as many on their way.

    Only its launcher finds out whether there is KVM: where there need not be, translated code has room, too.
    """
    return guest_bytes + LAUNCHER_BYTES + 2 * chunk_memory + (TRANSLATION_BYTES if may_emulate else 0)
