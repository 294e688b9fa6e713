"""A controller's surroundings in memory: cluster, job board, registry, launchers and a clock."""

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.addresses.claims import ClaimReconciler
from controller.addresses.leases import LeaseReconciler
from controller.addresses.ranges import AddressRanges
from controller.api.resource import (
    ADDRESS_CLAIM,
    ADDRESS_LEASE,
    ATTACHMENT,
    CLUSTER_IMAGE,
    CPU_MODEL,
    DISK,
    GROUP,
    IMAGE,
    MACHINE,
    OPERATION,
    POD,
    PVC,
    VERSION,
    Resource,
)
from controller.attachments.reconciler import AttachmentReconciler
from controller.cpumodels.default import ensure_default
from controller.cpumodels.reconciler import CpuModelReconciler
from controller.disks.filling import Filling
from controller.disks.reconciler import DiskReconciler
from controller.images.capture import DiskCapture
from controller.images.existing import ExistingImages
from controller.images.importing import ImageImport
from controller.images.origins import Origins
from controller.images.reconciler import ImageReconciler
from controller.images.registry import Artifact
from controller.images.reservations import Reservations, Settling
from controller.images.volume import ImageVolume
from controller.launcher.spec import (
    CaptureSpec,
    DiskWishes,
    MachineSpec,
    MachineState,
    MachineStatus,
    MigrationOrder,
    WorkStatus,
)
from controller.machines.address import LeasedAddress
from controller.machines.authority import MachineAuthority
from controller.machines.migration import Migrate
from controller.machines.reconciler import MachineReconciler
from controller.machines.setup import LauncherSetup
from controller.machines.starting import MachineStart
from controller.operations.reconciler import OperationReconciler
from controller.registry_access import RegistryAccess, TokenIssuer
from controller.runtime.controller import Reconciler
from controller.runtime.index import Key, Object
from controller.runtime.subject import MAIN_CONDITIONS
from dvcr.artifact.staged import Part
from dvcr.client.auth import IssuedToken
from dvcr.client.credentials import Credentials, credentials_of
from dvcr.config import ClientSettings, MigrationSettings, UploaderSettings
from dvcr.digest import Digest
from dvcr.errors import DvcrError, RegistryError
from dvcr.jobs.job import JobProgress, JobState
from tests.support.jobs import MemoryJobBoard
from tests.support.memory_cluster import MemoryCluster

MIB = 2**20
UNFINISHED = (
    "Pending", "WaitForUserUpload", "Provisioning", "Resizing", "Terminating", "Scheduling", "Starting", "Stopping",
    "InProgress", "Failed", "ImageLost", "PVCLost", "Conflict", "Lost",
)  # fmt: skip
"""Phases in which something is waited for, or missing."""
OPERATION_TTL_S = 24 * 3600
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class MemoryImageRegistry:
    """ImageRegistry of a dict."""

    host = "registry.test"

    def __init__(self) -> None:
        self.images: dict[tuple[str, str], Artifact] = {}
        self.error: DvcrError | None = None
        """What questions are answered with."""
        self.uploads: dict[str, tuple[Digest, tuple[Part, ...]]] = {}
        self.removed_uploads: list[tuple[str, tuple[Part, ...]]] = []

    def add(
        self, repository: str, tag: str, *, size_bytes: int = 64 * MIB, cdrom: bool = False, digest: str = "a"
    ) -> None:
        """`digest` is the digit that its digest is made of."""
        source_format = "iso" if cdrom else "qcow2"
        whole = Digest.parse("sha256:" + digest * 64)
        self.images[repository, tag] = Artifact(repository, whole, source_format, cdrom, size_bytes, stored_bytes=0)

    def find(self, repository: str, tag: str) -> Artifact | None:
        if self.error is not None:
            raise self.error
        return self.images.get((repository, tag))

    def find_digest(self, repository: str, tag: str) -> Digest | None:
        stored = self.find(repository, tag)
        return stored.digest if stored else None

    def remove(self, repository: str, tag: str) -> None:
        self.images.pop((repository, tag), None)

    def find_upload(self, repository: str) -> tuple[Digest, tuple[Part, ...]] | None:
        return self.uploads.get(repository)

    def remove_upload(self, repository: str, parts: Iterable[Part]) -> None:
        self.removed_uploads.append((repository, tuple(parts)))


class MemoryLaunchers:
    def __init__(self) -> None:
        self.status: MachineStatus | None = MachineStatus(state=MachineState.RUNNING)
        self.wishes: DiskWishes | None = None
        self.captures: dict[str, CaptureSpec] = {}
        self.credentials: dict[str, Credentials | None] = {}
        """Those that came last for each capture."""
        self.capture_status: WorkStatus | None = WorkStatus()
        """None: launchers do not answer."""
        self.of_pod: dict[str, MachineStatus | None] = {}
        """Statuses of certain pods, by name; `status` is that of all others."""
        self.specifications: dict[str, MachineSpec] = {}
        self.asked: list[tuple[str, str]] = []
        """What was asked for besides, and of which pod."""
        self.order: MigrationOrder | None = None

    def read(self, pod: Object) -> MachineStatus | None:
        return self.of_pod.get(pod["metadata"]["name"], self.status)

    def specification(self, pod: Object) -> MachineSpec:
        return self.specifications[pod["metadata"]["name"]]

    def send(self, pod: Object, order: MigrationOrder) -> None:
        self.order = order
        self.asked.append(("send", pod["metadata"]["name"]))

    def cancel(self, pod: Object) -> None:
        self.asked.append(("cancel", pod["metadata"]["name"]))

    def roll_back(self, pod: Object) -> None:
        self.asked.append(("roll back", pod["metadata"]["name"]))

    def resume(self, pod: Object) -> None:
        self.asked.append(("resume", pod["metadata"]["name"]))

    def want(self, pod: Object, wishes: DiskWishes) -> bool:
        self.wishes = wishes
        return True

    def capture(
        self, pod: Object, image_uid: str, spec: CaptureSpec, credentials: Credentials | None
    ) -> WorkStatus | None:
        if self.capture_status is not None:
            self.captures[image_uid] = spec
            self.credentials[image_uid] = credentials
        return self.capture_status

    def end_capture(self, pod: Object, image_uid: str) -> bool:
        self.captures.pop(image_uid, None)
        return self.capture_status is not None


class MemoryTokens:
    """TokenIssuer that counts. A token says what it is for."""

    def __init__(self) -> None:
        self.issued = 0
        self.life_s: float = 3600
        self.issues = True
        self.error: RegistryError | None = None

    def issue_token(self, scopes: Sequence[str], life_s: int) -> IssuedToken | None:
        if self.error is not None:
            raise self.error
        self.issued += 1
        text = f"{self.issued} {' '.join(scopes)}"
        return IssuedToken(text, min(life_s, self.life_s)) if self.issues else None


class MemoryWorkProgress:
    def __init__(self) -> None:
        self.told: WorkStatus | None = None

    def read(self, address: str) -> WorkStatus | None:
        return self.told


@dataclass
class World:
    """Everything; `settle` reconciles until nothing changes any more."""

    cluster: MemoryCluster = field(default_factory=MemoryCluster)
    board: MemoryJobBoard = field(default_factory=MemoryJobBoard)
    registry: MemoryImageRegistry = field(default_factory=MemoryImageRegistry)
    launchers: MemoryLaunchers = field(default_factory=MemoryLaunchers)
    work_progress: MemoryWorkProgress = field(default_factory=MemoryWorkProgress)
    now: datetime = NOW
    cidrs: tuple[str, ...] = ()
    """Where machines get leased addresses from."""
    client: ClientSettings = field(default_factory=lambda: ClientSettings(url="http://registry.test"))
    tokens: MemoryTokens = field(default_factory=MemoryTokens)
    issuer: TokenIssuer | None = None
    """Where tokens come from instead."""

    def __post_init__(self) -> None:
        reservations = Reservations()
        images = ExistingImages(self.cluster, self.registry, reservations)
        origins = Origins(self.cluster, images)
        imports = ImageImport(self.board, self.registry, origins, UploaderSettings(), self.clock, retry_failed_s=600)
        setup = LauncherSetup(("dvcr-launcher",), "dvcr", self.client)
        access = RegistryAccess(self.issuer or self.tokens, credentials_of(self.client), self.clock)
        filling = Filling(self.cluster, self.work_progress, setup, access)
        volumes = ImageVolume(self.cluster, filling, "")
        captures = DiskCapture(self.cluster, self.work_progress, self.launchers, setup, access)
        self.authority = MachineAuthority(self.cluster, "dvcr", self.clock)
        ranges = AddressRanges(self.cidrs)
        address = LeasedAddress(ranges, {"example.com/ip": "[{address}]"})
        start = MachineStart(self.cluster, images, setup, self.authority, access, address)
        migrate = Migrate(self.cluster, self.authority, access, self.launchers, MigrationSettings())
        image_reconcilers = {
            resource: ImageReconciler(
                self.cluster, resource, imports, captures, volumes, reservations, self.clock, check_s=60
            )
            for resource in (CLUSTER_IMAGE, IMAGE)
        }
        self.reconcilers: dict[Resource, Reconciler] = {
            **image_reconcilers,
            DISK: DiskReconciler(self.cluster, images, imports, filling, "", self.clock, check_s=60),
            MACHINE: MachineReconciler(
                self.cluster, start, self.authority, access, self.launchers, migrate, self.clock
            ),
            ADDRESS_CLAIM: ClaimReconciler(self.cluster, ranges, self.clock),
            ADDRESS_LEASE: LeaseReconciler(self.cluster, self.clock),
            CPU_MODEL: CpuModelReconciler(self.cluster, self.clock),
            ATTACHMENT: AttachmentReconciler(self.cluster, self.launchers, self.clock),
            OPERATION: OperationReconciler(self.cluster, OPERATION_TTL_S, self.clock),
        }
        for resource in (*image_reconcilers, DISK, MACHINE):
            self.reconcilers[resource] = Settling(resource, self.reconcilers[resource], reservations)
        ensure_default(self.cluster)

    def clock(self) -> datetime:
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def apply(self, resource: Resource, name: str, spec: dict[str, Any]) -> Object:
        metadata = {"name": name} | ({"namespace": "default"} if resource.namespaced else {})
        obj = {"apiVersion": f"{GROUP}/{VERSION}", "kind": resource.kind, "metadata": metadata, "spec": spec}
        self.cluster.create(resource, obj)
        self.settle()
        return self.get(resource, name)

    def change(self, resource: Resource, name: str, spec: dict[str, Any]) -> Object:
        namespace = "default" if resource.namespaced else None
        self.cluster.patch(resource, name, {"spec": spec}, namespace)
        self.settle()
        return self.get(resource, name)

    def delete(self, resource: Resource, name: str) -> Object | None:
        self.cluster.delete(resource, name, "default" if resource.namespaced else None)
        self.settle()
        return self.find(resource, name)

    def find(self, resource: Resource, name: str) -> Object | None:
        """A copy, which the test may change."""
        return copy.deepcopy(self.cluster.get(resource, name, "default" if resource.namespaced else None))

    def get(self, resource: Resource, name: str) -> Object:
        obj = self.find(resource, name)
        assert obj is not None
        return obj

    def status(self, resource: Resource, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.get(resource, name)["status"]
        return status

    def condition(self, resource: Resource, name: str, condition: str) -> dict[str, Any]:
        return next(c for c in self.status(resource, name)["conditions"] if c["type"] == condition)

    def settle(self) -> None:
        """Reconcile every object until a round writes nothing."""
        for _ in range(20):
            before = self.cluster.writes
            for resource in self.reconcilers:
                for obj in self.cluster.list(resource):
                    self.reconcile(resource, (obj["metadata"].get("namespace", ""), obj["metadata"]["name"]))
            if self.cluster.writes == before:
                return
        raise AssertionError("the reconcilers never come to rest")

    def reconcile(self, resource: Resource, key: Key) -> float | None:
        """One pass, which keeps what all passes over all kinds promise."""
        before, begun = self.cluster.status_writes, self.cluster.get(resource, key[1], key[0] or None)
        again_s = self.reconcilers[resource].reconcile(key)
        written = self.cluster.status_writes - before
        assert written <= 1, f"{resource.kind} {key}: {written} writes of the status"
        obj = self.cluster.get(resource, key[1], key[0] or None)
        # What the pass itself deletes is another generation, which the next one looks at.
        if obj is not None and begun is not None and obj["metadata"]["generation"] == begun["metadata"]["generation"]:
            check_promises(resource, obj)
        return again_s

    def publish(self, repository: str, uid: str, *, cdrom: bool = False) -> None:
        """As a worker or a launcher does: the artifact first, then the last word on the job, if there is one."""
        self.registry.add(repository, uid, cdrom=cdrom)
        if self.board.progress(uid) is not None:
            self.board.report(uid, JobProgress(state=JobState.SUCCEEDED))

    def bind(self, claim: str) -> None:
        """As the provisioner does."""
        size = self.get(PVC, claim)["spec"]["resources"]["requests"]["storage"]
        self.cluster.set_status(PVC, claim, "default", phase="Bound", capacity={"storage": size})
        self.settle()

    def run_pod(self, pod: str = "vm-web", address: str = "127.64.0.2") -> None:
        """As the node agent does: bind it and have it ready."""
        self.cluster.patch(POD, pod, {"spec": {"nodeName": "node"}}, "default")
        ready = [{"type": "Ready", "status": "True"}]
        self.cluster.set_status(POD, pod, "default", phase="Running", podIP=address, conditions=ready)
        self.settle()

    def end_pod(self, reason: str, message: str = "", pod: str = "vm-web", output: str = "") -> None:
        """As the node agent tells of a launcher that ended."""
        text = json.dumps({"reason": reason, "message": message, "output": output})
        state = {"terminated": {"exitCode": 1 if reason == "Failed" else 0, "message": text}}
        statuses = [{"name": "machine", "state": state}]
        phase = "Failed" if reason == "Failed" else "Succeeded"
        self.cluster.set_status(POD, pod, "default", phase=phase, containerStatuses=statuses)
        self.settle()

    def kill_pod(self, pod: str = "vm-web", reason: str = "Error") -> None:
        """As the node tells of a launcher that was killed, and left no last word."""
        statuses = [{"name": "machine", "state": {"terminated": {"exitCode": 137, "reason": reason}}}]
        self.cluster.set_status(POD, pod, "default", phase="Failed", containerStatuses=statuses)
        self.settle()

    def finish_deletion(self, pod: str = "vm-web") -> None:
        """As the node agent does once the launcher of a deleted pod is gone."""
        self.cluster.delete(POD, pod, "default", grace_period_s=0)
        self.settle()


def check_promises(resource: Resource, obj: Object) -> None:
    """After a pass: the status is about the object as it is now, and what is not finished says what it waits for."""
    status, generation = obj.get("status") or {}, obj["metadata"]["generation"]
    label = f"{resource.kind} {obj['metadata']['name']}: {json.dumps(status)}"
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    observed = {name: condition.get("observedGeneration") for name, condition in conditions.items()}
    assert status.get("observedGeneration") == generation, label
    assert observed == dict.fromkeys(conditions, generation), label
    assert all(condition["reason"] for condition in conditions.values()), label
    [main] = [name for name in MAIN_CONDITIONS if name in conditions]
    if status["phase"] in UNFINISHED:
        assert conditions[main]["status"] == "False", label
        assert conditions[main]["message"], label


def operate(world: World, kind: str, name: str = "op", **spec: Any) -> dict[str, Any]:
    """An operation on the machine `web`; its status."""
    world.apply(OPERATION, name, {"type": kind, "virtualMachineName": "web", **spec})
    return world.status(OPERATION, name)
