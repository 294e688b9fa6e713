"""What a machine's pod is made from, gathered by the prerequisites of a start."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from controller.api.machine import AttachedDevice
from controller.launcher.spec import CloudInit, DiskSpec, Processor, Sysprep
from controller.machines.visit import Visit

DISKS_FOLDER = "/disks"


@dataclass(frozen=True)
class Device:
    """A block device that can be attached."""

    disk: DiskSpec
    attached: AttachedDevice
    claim: str | None = None
    """The PersistentVolumeClaim of a disk, mounted at the folder of `disk.path`."""
    image_bytes: int = 0
    """Most that the image it shows or starts from can have; 0: there is none."""

    def on_a_port(self) -> "Device":
        """The same, to be taken away while the machine runs."""
        return replace(
            self,
            disk=self.disk.model_copy(update={"hotplug": True}),
            attached=self.attached.model_copy(update={"hotpluggable": True}),
        )


@dataclass(frozen=True)
class NotReady:
    """What a machine waits for."""

    reason: str
    message: str


@dataclass
class Launch:
    """Filled in by the prerequisites, in order; then the Secret and the pod are made of it."""

    devices: list[Device] = field(default_factory=list)
    """In boot order."""
    processor: Processor = field(default_factory=Processor)
    cloud_init: CloudInit | None = None
    sysprep: Sysprep | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    """Of the pod."""
    address: str = ""
    """Of the machine, where every process of a node can have it."""


Prerequisite = Callable[[Visit, Launch], NotReady | None]
"""Adds its part to the launch and sets its condition, or says what the machine waits for."""
