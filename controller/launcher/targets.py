"""What Linux in the guest calls a disk: the lowest free letter or number in the order in which it finds them. Pure.

That order is the one of the command line, then the seed, then the hotplug ports. It is a forecast, for people: what is
certain is the disk's serial number.
"""

from collections.abc import Collection, Sequence
from itertools import count

from controller.launcher.argv import Drive


def cold_targets(drives: Sequence[Drive], *, paravirtualization: bool, seed: bool) -> dict[str, str]:
    """The names of the drives that a machine starts with, by their nodes; also of the seed, if it is a virtio disk."""
    targets: dict[str, str] = {}
    for drive in drives:
        if drive.port is None:
            prefix = "sr" if drive.cdrom else "vd" if paravirtualization else "sd"
            targets[drive.node] = free_target(prefix, targets.values())
    if seed:
        targets["seed"] = free_target("vd", targets.values())
    for drive in sorted((drive for drive in drives if drive.port is not None), key=lambda drive: drive.port or 0):
        targets[drive.node] = free_target("vd", targets.values())
    return targets


def free_target(prefix: str, taken: Collection[str]) -> str:
    """The name that the next device of its kind gets."""
    names = (f"{prefix}{n}" if prefix == "sr" else prefix + _letters(n) for n in count())
    return next(name for name in names if name not in taken)


def _letters(index: int) -> str:
    """0 is a, 25 is z, 26 is aa."""
    letters = ""
    while index >= 0:
        letters = chr(ord("a") + index % 26) + letters
        index = index // 26 - 1
    return letters
