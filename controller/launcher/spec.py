"""The contract between the controller and the process in a machine's pod.

The controller writes a `MachineSpec` as `machine.json` into a Secret that the pod mounts at /etc/dvcr; the launcher
answers `GET /status` at its pod's address, port `STATUS_PORT`, with a `MachineStatus`, and leaves a `Termination` as
its termination message. That port speaks TLS with the certificates that lie beside `machine.json`; only who shows one
for `CONTROLLER_IDENTITY` is answered. `GET /healthz`, for the kubelet, is on `HEALTH_PORT`. Paths are those inside the
pod; where a pod is a process of the embedded cluster, ``DVCR_POD_ROOT`` names the folder that stands for ``/``.
"""

from enum import StrEnum
from typing import Literal, Self

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

SPEC_PATH = "/etc/dvcr/machine.json"
CREDENTIALS_PATH = "/etc/dvcr/registry.json"
"""What the pod shows to the registry (dvcr.client.credentials), if anything. Replaced before it runs out."""
CREDENTIALS_HEADER = "X-Registry-Auth"
"""Of a request for a capture: the same, as base64url, for that capture alone. Docker's API has it too."""
STATUS_PORT = 61080
HEALTH_PORT = 61081
MIGRATION_PORT = 61082
"""Where QEMU takes a machine in, over TLS."""
AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.crt", "tls.crt", "tls.key"
"""Beside `machine.json`: the authority of all machines' pods, and what it issued to this one. Replaced now and then."""
CONTROLLER_IDENTITY = "dvcr-controller"
ADDRESS_VARIABLE = "POD_IP"
"""Environment variable with the pod's address (fieldRef status.podIP); the launcher listens there, else everywhere."""
CONTAINER_NAME = "machine"
SNAPSHOTS_FOLDER = "/var/lib/dvcr/snapshots"
"""Takes the blocks that the guest overwrites while an image is made of its disk. Not in memory."""
CACHE_FOLDER = "/var/cache/dvcr"
"""Where the chunk cache is mounted; where pods are processes, the node's own cache takes its place."""
TRANSLATION_BYTES = 128 * 2**20
"""Most that QEMU keeps of an emulated processor's translated code; its own bound is 1 GiB, or an eighth of the host's
memory, of which the pod's limit knows nothing."""
LAUNCHER_PORTS = (STATUS_PORT, HEALTH_PORT, MIGRATION_PORT)
"""Ports of the pod at which never the guest answers."""


def machine_identity(uid: str) -> str:
    """The name that the pods of a machine have in their certificates: its common name, and its only DNS name."""
    return f"{uid}.machine.dvcr"


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ImageReference(_Message):
    """A disk artifact in the registry, pinned by digest."""

    repository: str
    digest: str


class DiskSpec(_Message):
    """A block device of the machine, in boot order."""

    name: str
    """Unique in the machine; becomes the QEMU node name and the guest's disk serial."""
    kind: Literal["disk", "image"]
    """A `disk` is written by the guest and lives at `path`; an `image` is read-only, straight from the registry."""
    path: str = ""
    """Where the qcow2 of a `disk` is or will be made."""
    device: bool = False
    """`path` is there already: a device, or what stands for one, which becomes the qcow2 as a whole."""
    size_bytes: int = 0
    """Virtual size of a `disk`."""
    image: ImageReference | None = None
    """What an `image` shows; what a `disk` that does not exist yet starts from (None: it starts empty)."""
    cdrom: bool = False
    hotplug: bool = False
    """The disk sits on a port of its own, from which it can be taken while the machine runs."""
    port: int | None = None
    """The number of that port; None: a free one. The status tells which it is."""


class CloudInit(_Message):
    """The NoCloud drive."""

    user_data: str
    instance_id: str
    hostname: str


class Sysprep(_Message):
    """The CD-ROM for Windows' unattended setup."""

    files: dict[str, Base64Bytes]
    """By name, in the root folder."""


class Processor(_Message):
    """The processor that the guest sees."""

    type: Literal["Host", "Model", "Features"] = "Host"
    """That of the node, QEMU's model `model`, or a plain 64-bit one with `features`."""
    model: str = ""
    features: tuple[str, ...] = ()


class MachineSpec(_Message):
    """Everything the launcher needs to run the machine."""

    name: str
    namespace: str
    uid: str
    cores: int = Field(ge=1)
    core_percent: int = 100
    processor: Processor = Processor()
    memory_bytes: int
    bootloader: Literal["BIOS", "EFI", "EFIWithSecureBoot"] = "BIOS"
    os_type: Literal["Generic", "Windows"] = "Generic"
    paravirtualization: bool = True
    disks: tuple[DiskSpec, ...]
    cloud_init: CloudInit | None = None
    sysprep: Sysprep | None = None
    grace_period_s: int = 60
    """Time between the power button and the kill. Read again when the pod is asked to stop: it may have changed."""
    incoming: bool = False
    """The machine runs in another pod and is to be taken over from there: see `MigrationOrder`."""
    address: str = ""
    """Where the guest's ports answer, if not at the pod's address: on one machine they stay there when it moves."""
    chunk_memory_bytes: int = 48 * 2**20
    """Most bytes of chunks that are held for all images together, and most that are on their way."""

    @property
    def kept_in(self) -> str:
        """Folder of what outlives a run, the serial log and the firmware's variables: beside the first disk that is a
        file and stays with the machine. The files of a machine without such a disk end with its pod."""
        files = (disk.path for disk in self.disks if disk.kind == "disk" and not disk.device and not disk.hotplug)
        return next(files, "/tmp/dvcr/").rpartition("/")[0]  # noqa: S108 (of the pod's own root)


class MachineState(StrEnum):
    STARTING = "Starting"
    RUNNING = "Running"
    PAUSED = "Paused"
    STOPPING = "Stopping"
    INCOMING = "Incoming"
    """Waits for the machine to come from another pod."""
    RECEIVED = "Received"
    """The machine is here whole, and runs when it is told to."""
    MOVED = "Moved"
    """The machine has left for another pod."""

    @property
    def has_guest(self) -> bool:
        """Whether the guest is here, and has run an instruction."""
        return self in (MachineState.RUNNING, MachineState.PAUSED, MachineState.STOPPING)


class DiskStatus(_Message):
    name: str
    streamed_percent: int = 100
    """How much of the image has been copied to the disk; 100: the disk stands alone."""
    size_bytes: int = 0
    """What the guest sees."""
    target: str = ""
    """What Linux calls the device; empty where nothing can be said."""
    hotplug: bool = False
    port: int | None = None
    """The hotplug port that it sits on."""
    attached: bool = True
    """Whether the guest has it."""
    message: str = ""
    """What plugging, unplugging or growing it waits for."""


class NetworkStatus(_Message):
    """The guest's connection."""

    kind: Literal["passt", "user"]
    """passt, or QEMU's own user networking."""
    trouble: str = ""
    """Why it is down; empty: it is not."""


class GuestInterface(_Message):
    """A network card as the guest sees it."""

    name: str = ""
    mac_address: str = ""
    addresses: tuple[str, ...] = ()


class GuestStatus(_Message):
    """What the guest's agent tells; a field that it does not tell is empty."""

    agent_version: str = ""
    host_name: str = ""
    os: dict[str, str] = Field(default_factory=dict)
    """As `guest-get-osinfo` names it: id, name, pretty-name, version, version-id, machine, kernel-release, ..."""
    interfaces: tuple[GuestInterface, ...] = ()
    """Those that have an address, without loopback."""


class MigrationOrder(_Message):
    """What `PUT /migration` takes: send the machine to the launcher of another pod, which is `incoming`.

    Accepted at once, `GET /status` tells how far it is. `DELETE /migration` breaks it off. `POST /migration/resume` has
    the other launcher run the machine, and is answered when it does; the launcher that the machine left sends it.
    `POST /migration/rollback` has that one run the machine again: only for who knows that the other pod never will.
    """

    id: str
    """The same order twice is one."""
    address: str
    """Of the other pod."""
    bandwidth_bytes: int = 0
    """Per second, at most; 0: no limit."""
    downtime_ms: int = 300
    """How long the guest may stand still at the end."""
    progress_timeout_s: float = 150
    """Without progress for this long, the attempt ends and the machine stays."""


class MigrationState(StrEnum):
    ACTIVE = "Active"
    """The guest runs here while its memory is sent."""
    SENT = "Sent"
    """The guest stands still here for good, unless rolled back; the other launcher has not answered yet."""
    DONE = "Done"
    """The guest runs there."""
    FAILED = "Failed"
    """The guest runs on here; `message` says why."""


class MigrationStatus(_Message):
    """Of the latest attempt to send the machine away."""

    id: str
    state: MigrationState
    message: str = ""
    told: bool = False
    """Whether the other launcher may have heard that it is to run the machine."""
    total_bytes: int = 0
    remaining_bytes: int = 0
    downtime_ms: int | None = None
    """From the guest's stop here to its start there."""
    total_ms: int | None = None


class MachineStatus(_Message):
    """What `GET /status` answers."""

    state: MachineState
    accelerator: str = ""
    """kvm or tcg."""
    network: NetworkStatus | None = None
    """None before it is chosen."""
    disks: tuple[DiskStatus, ...] = ()
    message: str = ""
    guest: GuestStatus | None = None
    """None: no guest agent answers."""
    migration: MigrationStatus | None = None
    """None: nobody asked for one."""


class DiskWishes(_Message):
    """What `PUT /disks` takes: all that is wanted of the disks of a running machine, each time.

    Accepted at once and carried out as soon as possible; `GET /status` tells how far it is.
    """

    plugged: tuple[DiskSpec, ...] = ()
    """Every disk that the machine is to have besides those that it was started with for good."""
    sizes_bytes: dict[str, int] = Field(default_factory=dict)
    """Virtual sizes to grow to, by the names of disks; one that is not named stays as it is."""


class TerminationReason(StrEnum):
    GUEST_SHUTDOWN = "GuestShutdown"
    """The guest powered itself off."""
    GUEST_RESET = "GuestReset"
    """The guest asked for a reboot (a new pod is to start at once)."""
    GUEST_PANIC = "GuestPanic"
    """The guest's kernel crashed."""
    STOPPED = "Stopped"
    """Powered off because the pod was asked to stop."""
    MOVED = "Moved"
    """The machine was sent to another pod, and stands still here for good."""
    NOT_ARRIVED = "NotArrived"
    """The machine was to come from another pod, and has never run here."""
    KILLED = "Killed"
    """As Stopped, but the guest did not obey within the grace period."""
    FAILED = "Failed"
    """The machine could not be started or crashed; `message` says why."""


CRASHES = (TerminationReason.GUEST_PANIC, TerminationReason.FAILED)
"""What nobody asked for."""


MAX_TERMINATION_BYTES = 4096


class Termination(_Message):
    """The last word of a launcher, as JSON in the container's termination message."""

    reason: TerminationReason
    message: str = ""
    output: str = ""
    """The last that the guest wrote to its serial console, as much as there is room for."""

    def with_output(self, output: bytes) -> Self:
        """The same with the end of this output: as much as Kubernetes keeps of a termination message."""
        text = output[-MAX_TERMINATION_BYTES:].decode(errors="replace")
        whole = self.model_copy(update={"output": text})
        while text and (excess := len(whole.model_dump_json().encode()) - MAX_TERMINATION_BYTES) > 0:
            # A character takes up to six bytes there.
            text = text[max(1, excess // 6) :]
            whole = self.model_copy(update={"output": text})
        return whole


class CaptureSpec(_Message):
    """The image that is to be made of a disk.

    Of one that nobody writes to by `dvcr-launcher capture`, whose only argument it is, as JSON; of a running machine's
    by its launcher, at `PUT /captures/<uid of the image>`, which answers with a `WorkStatus`.
    """

    repository: str
    tags: tuple[str, ...]
    """Set in that order; the last means that all is done."""
    origin: str
    """What the image tells people of where it came from."""
    disk: DiskSpec


class FillSpec(_Message):
    """The disk that `dvcr-launcher fill` is to make and to copy its image into: its only argument, as JSON."""

    disk: DiskSpec


class WorkEnd(_Message):
    """The last word of a pod that works on a disk, as JSON in the container's termination message."""

    reason: str = ""
    """Of the error; empty: all is done."""
    message: str = ""
    retryable: bool = False


class WorkStatus(_Message):
    """What `GET /status` answers in such a pod, and `/captures/<uid>` in a machine's."""

    percent: int = 0
    message: str = ""
    """What it waits for."""
    end: WorkEnd | None = None
