"""Where a pod finds the volume of a disk."""

from controller.launcher.spec import DiskSpec
from controller.runtime.index import Object


def disk_folder(disk: DiskSpec) -> str:
    """The folder that a volume with a file system is mounted at."""
    return disk.path.rpartition("/")[0]


def disk_mount(volume: str, disk: DiskSpec) -> dict[str, list[Object]]:
    """The part of a container that brings the disk's volume, of that name, to the disk's path."""
    if disk.device:
        return {"volumeDevices": [{"name": volume, "devicePath": disk.path}]}
    return {"volumeMounts": [{"name": volume, "mountPath": disk_folder(disk)}]}
