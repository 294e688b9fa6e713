"""Starting a machine: everything it needs, then its Secret, then its pod."""

from controller.api.resource import POD
from controller.disks.usage import is_over, pods_of_machine
from controller.images.existing import ExistingImages
from controller.machines.address import LeasedAddress
from controller.machines.authority import MachineAuthority
from controller.machines.devices import BlockDevices
from controller.machines.hotplug import attached_disks
from controller.machines.image_access import image_scopes
from controller.machines.launch import Launch, NotReady, Prerequisite
from controller.machines.pod import RENEWAL_ANNOTATION, build_pod, launcher_spec, machine_files, pod_name
from controller.machines.processor import processor
from controller.machines.provisioning import provisioning
from controller.machines.setup import LauncherSetup
from controller.machines.visit import Visit
from controller.pod_secret import build_secret, put_secret
from controller.registry_access import ACCESS_ANNOTATION, RegistryAccess
from controller.runtime.errors import ClusterError, concerns_users
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort
from dvcr.errors import DvcrError


class MachineStart:
    """Makes the pod of a machine, or says in its conditions what is missing."""

    def __init__(
        self,
        cluster: ClusterPort,
        images: ExistingImages,
        setup: LauncherSetup,
        authority: MachineAuthority,
        access: RegistryAccess,
        address: LeasedAddress,
    ) -> None:
        self._cluster = cluster
        self._setup = setup
        self._authority = authority
        self._access = access
        self._prerequisites: tuple[Prerequisite, ...] = (
            no_other_pod,
            BlockDevices(images),
            attached_disks,
            provisioning,
            processor,
            address,
        )

    def start(self, visit: Visit) -> Object | NotReady:
        """The new pod, or what the machine waits for."""
        launch = Launch()
        try:
            for prerequisite in self._prerequisites:
                missing = prerequisite(visit, launch)
                if missing is not None:
                    return missing
            return self._create(visit, launch)
        except DvcrError as exc:
            if not concerns_users(exc):
                raise
            if not isinstance(exc, ClusterError):
                return NotReady(exc.reason, exc.message)
            visit.failure = exc
            return NotReady(exc.reason, f"waits for what the cluster refuses: {exc.message}")

    def _create(self, visit: Visit, launch: Launch) -> Object:
        machine = visit.machine
        metadata, owner = machine.obj["metadata"], machine.owner_reference()
        launch.annotations[RENEWAL_ANNOTATION] = self._authority.renewal()
        pod = build_pod(metadata, owner, visit.spec, launch, self._setup)
        files = machine_files(launcher_spec(metadata, visit.spec, launch)) | self._authority.issue(machine.uid)
        grant = self._access.grant(image_scopes(visit, pod))
        if grant is not None:
            pod["metadata"]["annotations"][ACCESS_ANNOTATION] = grant.note
            files |= grant.files
        put_secret(self._cluster, build_secret(pod_name(machine.name), metadata["namespace"], owner, files))
        return self._cluster.create(POD, pod)


def no_other_pod(visit: Visit, _: Launch) -> NotReady | None:
    """The prerequisite: no pod that moved the machine, or failed to, runs it any more."""
    machine = visit.machine
    for pod in pods_of_machine(visit.cluster, machine.name, machine.namespace):
        if not is_over(pod):
            return NotReady("OtherPodRuns", f"waits until pod {pod['metadata']['name']!r}, which may run it, has ended")
    return None
