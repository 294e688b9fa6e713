"""All reconcilers, and which changes concern which objects."""

from collections.abc import Callable, Iterable

from controller.addresses.claims import ClaimReconciler, claim_name
from controller.addresses.leases import LeaseReconciler, claim_of
from controller.addresses.ranges import AddressRanges
from controller.api.address import ClaimPhase, lease_name
from controller.api.resource import (
    ADDRESS_CLAIM,
    ADDRESS_LEASE,
    ATTACHMENT,
    CLUSTER_IMAGE,
    CPU_MODEL,
    DISK,
    IMAGE,
    MACHINE,
    NODE,
    OPERATION,
    POD,
    PVC,
    Resource,
)
from controller.attachments.concerns import (
    attachments_of_disk,
    attachments_of_machine,
    machines_of_attachment,
    machines_of_disk,
    rivals,
)
from controller.attachments.reconciler import AttachmentReconciler
from controller.cpumodels.reconciler import CpuModelReconciler
from controller.disks.claim import disk_name
from controller.disks.filling import DiskFilling
from controller.disks.reconciler import DiskReconciler
from controller.disks.work import HttpWorkProgress
from controller.images.capture import DiskCapture
from controller.images.importing import ImageImport
from controller.images.origins import Origins
from controller.images.reconciler import ImageReconciler
from controller.images.registry import ImageRegistry
from controller.images.usage import images_of_claim, images_of_machine
from controller.machines.address import LeasedAddress
from controller.machines.authority import MachineAuthority
from controller.machines.launcher_status import HttpLauncherStatus
from controller.machines.migration import Migrate, MigrationLaunchers
from controller.machines.pod import machine_names
from controller.machines.reconciler import MachineReconciler
from controller.machines.setup import LauncherSetup
from controller.machines.starting import MachineStart
from controller.operations.reconciler import OperationReconciler
from controller.runtime.conditions import utc_now
from controller.runtime.informer import Key, Object
from controller.runtime.port import ClusterPort
from controller.runtime.process import KeysOf, Loop
from dvcr.config import Settings
from dvcr.jobs.board import JobBoard

Cached = Callable[[Resource], Iterable[Object]]


def build_loops(
    cluster: ClusterPort,
    board: JobBoard,
    registry: ImageRegistry,
    launchers: MigrationLaunchers,
    settings: Settings,
) -> list[Loop]:
    """One loop for each kind."""
    imports = ImageImport(
        board,
        registry,
        Origins(cluster, registry),
        settings.uploader,
        utc_now,
        retry_failed_s=settings.controller.retry_failed_s,
    )
    launcher = settings.controller
    setup = LauncherSetup(
        launcher.launcher_command,
        launcher.launcher_image,
        settings.client,
        settings.launcher,
        launcher.node_cache_dir,
    )
    authority = MachineAuthority(cluster, launcher.namespace)
    ranges = AddressRanges(launcher.machine_cidrs)
    address = LeasedAddress(ranges, launcher.address_annotations)
    captures = DiskCapture(cluster, HttpWorkProgress(), HttpLauncherStatus(authority), setup)
    filling = DiskFilling(cluster, HttpWorkProgress(), setup)
    return [
        *(
            Loop(
                resource,
                ImageReconciler(cluster, resource, imports, captures),
                triggers=(
                    (DISK, _referring(resource, "virtualMachineDisk", namespaced=True)),
                    (IMAGE, _referring(resource, "virtualMachineImage", namespaced=True)),
                    (CLUSTER_IMAGE, _referring(resource, "clusterVirtualMachineImage", namespaced=False)),
                    # What was in the way of a deletion.
                    (IMAGE, _every(resource, deleting=True)),
                    (CLUSTER_IMAGE, _every(resource, deleting=True)),
                    (PVC, images_of_claim(resource)),
                    (MACHINE, images_of_machine(resource)),
                ),
            )
            for resource in (CLUSTER_IMAGE, IMAGE)
        ),
        Loop(
            DISK,
            DiskReconciler(cluster, imports, filling, launcher.default_storage_class),
            triggers=(
                (PVC, _renamed(disk_name)),
                (IMAGE, _referring(DISK, "virtualMachineImage", namespaced=True)),
                (CLUSTER_IMAGE, _referring(DISK, "clusterVirtualMachineImage", namespaced=False)),
            ),
        ),
        Loop(
            MACHINE,
            MachineReconciler(
                cluster,
                MachineStart(cluster, registry, setup, authority, address),
                authority,
                launchers,
                Migrate(cluster, authority, launchers, settings.migration),
            ),
            triggers=(
                (POD, _machines_of_pod),
                (DISK, _referring(MACHINE, "virtualMachineDisk", namespaced=True)),
                (DISK, machines_of_disk),
                (ATTACHMENT, machines_of_attachment),
                (IMAGE, _referring(MACHINE, "virtualMachineImage", namespaced=True)),
                (CLUSTER_IMAGE, _referring(MACHINE, "clusterVirtualMachineImage", namespaced=False)),
                (ADDRESS_CLAIM, _machines_with_claim),
            ),
        ),
        Loop(
            ADDRESS_CLAIM,
            ClaimReconciler(cluster, ranges),
            triggers=((ADDRESS_LEASE, _claims_of_lease), (MACHINE, _claim_of_machine)),
        ),
        Loop(ADDRESS_LEASE, LeaseReconciler(cluster), triggers=((ADDRESS_CLAIM, _leases_of_claim),)),
        Loop(
            CPU_MODEL,
            CpuModelReconciler(cluster),
            triggers=((NODE, _every(CPU_MODEL)), (MACHINE, _every(CPU_MODEL, deleting=True))),
        ),
        Loop(
            ATTACHMENT,
            AttachmentReconciler(cluster, launchers),
            triggers=(
                (MACHINE, attachments_of_machine),
                (DISK, attachments_of_disk),
                (ATTACHMENT, rivals),
            ),
        ),
        Loop(OPERATION, OperationReconciler(cluster, launcher.operation_ttl_s), triggers=((MACHINE, _operations_of),)),
    ]


def _renamed(owner: Callable[[str], str | None]) -> KeysOf:
    """For objects whose name tells their owner's."""

    def keys(key: Key, _cached: Cached) -> Iterable[Key]:
        name = owner(key[1])
        return [(key[0], name)] if name else []

    return keys


def _machines_of_pod(key: Key, _cached: Cached) -> Iterable[Key]:
    return [(key[0], name) for name in machine_names(key[1])]


def _referring(resource: Resource, block: str, *, namespaced: bool) -> KeysOf:
    """The objects of `resource` that name the changed one in a block of their data source or block devices."""

    def keys(key: Key, cached: Cached) -> Iterable[Key]:
        for obj in cached(resource):
            namespace = obj["metadata"].get("namespace", "")
            spec = obj.get("spec") or {}
            for place in (spec.get("dataSource") or {}, *(spec.get("blockDevices") or ())):
                named = place.get(block) or {}
                # Objects of the cluster name the namespace too.
                if named.get("name") == key[1] and (not namespaced or named.get("namespace", namespace) == key[0]):
                    yield namespace, obj["metadata"]["name"]

    return keys


def _every(resource: Resource, *, deleting: bool = False) -> KeysOf:
    """All objects of `resource`, or those that wait to be deleted: for kinds of which there are few."""

    def keys(_key: Key, cached: Cached) -> Iterable[Key]:
        for obj in cached(resource):
            if not deleting or "deletionTimestamp" in obj["metadata"]:
                yield obj["metadata"].get("namespace", ""), obj["metadata"]["name"]

    return keys


def _machines_with_claim(key: Key, cached: Cached) -> Iterable[Key]:
    for obj in cached(MACHINE):
        if (obj["metadata"]["namespace"], claim_name(obj)) == key:
            yield key[0], obj["metadata"]["name"]


def _claim_of_machine(key: Key, cached: Cached) -> Iterable[Key]:
    """The machine's claim, and any that the machine had before it changed or was deleted."""
    for obj in cached(MACHINE):
        if (obj["metadata"]["namespace"], obj["metadata"]["name"]) == key:
            yield key[0], claim_name(obj)
    for obj in cached(ADDRESS_CLAIM):
        if obj["metadata"]["namespace"] == key[0] and (obj.get("status") or {}).get("virtualMachineName") == key[1]:
            yield key[0], obj["metadata"]["name"]


def _claims_of_lease(key: Key, cached: Cached) -> Iterable[Key]:
    """The claim that the lease is for, and all that wait for an address."""
    for obj in cached(ADDRESS_LEASE):
        if obj["metadata"]["name"] == key[1]:
            yield claim_of(obj).namespace, claim_of(obj).name
    for obj in cached(ADDRESS_CLAIM):
        if (obj.get("status") or {}).get("phase") != ClaimPhase.BOUND or _has(obj, key[1]):
            yield obj["metadata"]["namespace"], obj["metadata"]["name"]


def _leases_of_claim(key: Key, cached: Cached) -> Iterable[Key]:
    for obj in cached(ADDRESS_LEASE):
        if (claim_of(obj).namespace, claim_of(obj).name) == key:
            yield "", obj["metadata"]["name"]


def _has(claim: Object, lease: str) -> bool:
    address = (claim.get("status") or {}).get("address")
    return address is not None and lease_name(address) == lease


def _operations_of(key: Key, cached: Cached) -> Iterable[Key]:
    for obj in cached(OPERATION):
        if obj["metadata"]["namespace"] == key[0] and obj["spec"].get("virtualMachineName") == key[1]:
            yield key[0], obj["metadata"]["name"]
