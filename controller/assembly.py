"""All reconcilers, and which changes concern which objects."""

from typing import Protocol

from controller.addresses.claims import ClaimReconciler
from controller.addresses.concerns import claims_of_lease, claims_of_machine, leases_of_claim, machines_of_claim
from controller.addresses.leases import LeaseReconciler
from controller.addresses.ranges import AddressRanges
from controller.api.resource import (
    ADDRESS_CLAIM,
    ADDRESS_LEASE,
    ATTACHMENT,
    CLUSTER_IMAGE,
    CPU_MODEL,
    DISK,
    DISRUPTION_BUDGET,
    IMAGE,
    MACHINE,
    NODE,
    OPERATION,
    POD,
    PVC,
    STORAGE_CLASS,
)
from controller.attachments.concerns import (
    attachments_of_disk,
    attachments_of_machine,
    machines_of_attachment,
    machines_of_disk,
    rivals,
)
from controller.attachments.reconciler import AttachmentReconciler
from controller.concerns import (
    deleted,
    disk_of_claim,
    every,
    image_of_claim,
    machines_of_pod,
    referring,
)
from controller.cpumodels.reconciler import CpuModelReconciler
from controller.disks.filling import Filling
from controller.disks.reconciler import DiskReconciler
from controller.disks.usage import disks_of_machine
from controller.disks.work import HttpWorkProgress
from controller.images.capture import DiskCapture, LauncherCaptures
from controller.images.existing import ExistingImages
from controller.images.importing import ImageImport
from controller.images.origins import Origins
from controller.images.reconciler import ImageReconciler
from controller.images.registry import ImageRegistry
from controller.images.reservations import Reservations, Settling
from controller.images.usage import images_of_claim, images_of_machine
from controller.images.volume import ImageVolume
from controller.machines.address import LeasedAddress
from controller.machines.authority import MachineAuthority
from controller.machines.migration import Migrate, MigrationLaunchers
from controller.machines.reconciler import MachineReconciler
from controller.machines.setup import LauncherSetup
from controller.machines.starting import MachineStart
from controller.operations.concerns import operations_beside, operations_of_machine
from controller.operations.reconciler import OperationReconciler
from controller.registry_access import RegistryAccess
from controller.runtime.conditions import utc_now
from controller.runtime.port import ClusterPort
from controller.runtime.process import Loop
from dvcr.client.credentials import credentials_of
from dvcr.client.registry import RegistryClient
from dvcr.config import Settings
from dvcr.jobs.board import JobBoard

_TOKEN_TIMEOUT_S = 5.0


class Launchers(MigrationLaunchers, LauncherCaptures, Protocol):
    """All that is asked of the launchers in machines' pods."""


def build_loops(
    cluster: ClusterPort,
    board: JobBoard,
    registry: ImageRegistry,
    launchers: Launchers,
    settings: Settings,
) -> list[Loop]:
    """One loop for each kind."""
    reservations = Reservations()
    images = ExistingImages(cluster, registry, reservations)
    imports = ImageImport(
        board,
        registry,
        Origins(cluster, images),
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
        launcher.kvm_resource,
    )
    # Passes over running machines do not wait for a registry that hangs.
    quick = settings.client.model_copy(update={"timeout_s": min(settings.client.timeout_s, _TOKEN_TIMEOUT_S)})
    access = RegistryAccess(RegistryClient.from_settings(quick), credentials_of(settings.client))
    authority = MachineAuthority(cluster, launcher.namespace)
    ranges = AddressRanges(launcher.machine_cidrs)
    address = LeasedAddress(ranges, launcher.address_annotations)
    captures = DiskCapture(cluster, HttpWorkProgress(), launchers, setup, access)
    filling = Filling(cluster, HttpWorkProgress(), setup, access)
    volumes = ImageVolume(cluster, filling, launcher.default_storage_class)
    return [
        *(
            Loop(
                resource,
                Settling(
                    resource,
                    ImageReconciler(
                        cluster, resource, imports, captures, volumes, reservations, check_s=launcher.image_check_s
                    ),
                    reservations,
                ),
                triggers=(
                    (DISK, referring(resource, DISK)),
                    (IMAGE, referring(resource, IMAGE)),
                    (CLUSTER_IMAGE, referring(resource, CLUSTER_IMAGE)),
                    # What was in the way of a deletion.
                    (IMAGE, deleted(resource)),
                    (CLUSTER_IMAGE, deleted(resource)),
                    (PVC, deleted(resource)),
                    (PVC, images_of_claim(resource)),
                    *(((PVC, image_of_claim),) if resource == IMAGE else ()),
                    (MACHINE, images_of_machine(resource)),
                ),
            )
            for resource in (CLUSTER_IMAGE, IMAGE)
        ),
        Loop(
            DISK,
            Settling(
                DISK,
                DiskReconciler(
                    cluster, images, imports, filling, launcher.default_storage_class, check_s=launcher.image_check_s
                ),
                reservations,
            ),
            reads=(STORAGE_CLASS,),
            triggers=(
                (PVC, disk_of_claim),
                (MACHINE, disks_of_machine),
                (IMAGE, referring(DISK, IMAGE)),
                (CLUSTER_IMAGE, referring(DISK, CLUSTER_IMAGE)),
            ),
        ),
        Loop(
            MACHINE,
            Settling(
                MACHINE,
                MachineReconciler(
                    cluster,
                    MachineStart(cluster, images, setup, authority, access, address),
                    authority,
                    access,
                    launchers,
                    Migrate(cluster, authority, access, launchers, settings.migration),
                ),
                reservations,
            ),
            reads=(DISRUPTION_BUDGET,),
            triggers=(
                (POD, machines_of_pod),
                (DISK, referring(MACHINE, DISK)),
                (DISK, machines_of_disk),
                (ATTACHMENT, machines_of_attachment),
                (IMAGE, referring(MACHINE, IMAGE)),
                (CLUSTER_IMAGE, referring(MACHINE, CLUSTER_IMAGE)),
                (ADDRESS_CLAIM, machines_of_claim),
            ),
        ),
        Loop(
            ADDRESS_CLAIM,
            ClaimReconciler(cluster, ranges),
            triggers=((ADDRESS_LEASE, claims_of_lease), (MACHINE, claims_of_machine)),
        ),
        Loop(ADDRESS_LEASE, LeaseReconciler(cluster), triggers=((ADDRESS_CLAIM, leases_of_claim),)),
        Loop(
            CPU_MODEL,
            CpuModelReconciler(cluster),
            triggers=((NODE, every(CPU_MODEL)), (MACHINE, deleted(CPU_MODEL))),
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
        Loop(
            OPERATION,
            OperationReconciler(cluster, launcher.operation_ttl_s),
            triggers=((MACHINE, operations_of_machine), (OPERATION, operations_beside)),
        ),
    ]
