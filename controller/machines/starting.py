"""Starting a machine: everything it needs, then its Secret, then its pod."""

from controller.api.resource import POD, SECRET
from controller.disks.usage import is_over, pods_of_machine
from controller.images.registry import ImageRegistry
from controller.machines.address import LeasedAddress
from controller.machines.authority import MachineAuthority
from controller.machines.devices import BlockDevices
from controller.machines.hotplug import attached_disks
from controller.machines.launch import Launch, NotReady, Prerequisite
from controller.machines.pod import RENEWAL_ANNOTATION, build_pod, build_secret, launcher_spec, pod_name
from controller.machines.processor import processor
from controller.machines.provisioning import provisioning
from controller.machines.setup import LauncherSetup
from controller.machines.visit import Visit
from controller.runtime.errors import AlreadyExistsError
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort


class MachineStart:
    """Makes the pod of a machine, or says in its conditions what is missing."""

    def __init__(
        self,
        cluster: ClusterPort,
        registry: ImageRegistry,
        setup: LauncherSetup,
        authority: MachineAuthority,
        address: LeasedAddress,
    ) -> None:
        self._cluster = cluster
        self._setup = setup
        self._authority = authority
        self._prerequisites: tuple[Prerequisite, ...] = (
            no_other_pod,
            BlockDevices(registry),
            attached_disks,
            provisioning,
            processor,
            address,
        )

    def start(self, visit: Visit) -> Object | NotReady:
        """The new pod, or what the machine waits for."""
        launch = Launch()
        for prerequisite in self._prerequisites:
            missing = prerequisite(visit, launch)
            if missing is not None:
                return missing
        return self._create(visit, launch)

    def _create(self, visit: Visit, launch: Launch) -> Object:
        machine = visit.machine
        metadata, owner = machine.obj["metadata"], machine.owner_reference()
        launcher = launcher_spec(metadata, visit.spec, launch)
        launch.annotations[RENEWAL_ANNOTATION] = self._authority.renewal()
        secret = build_secret(metadata, owner, launcher, self._authority.issue(machine.uid))
        try:
            self._cluster.create(SECRET, secret)
        except AlreadyExistsError:
            patch = {"data": secret["data"], "metadata": {"ownerReferences": [owner]}}
            self._cluster.patch(SECRET, pod_name(machine.name), patch, machine.namespace)
        return self._cluster.create(POD, build_pod(metadata, owner, visit.spec, launch, self._setup))


def no_other_pod(visit: Visit, _: Launch) -> NotReady | None:
    """The prerequisite: no pod that moved the machine, or failed to, runs it any more."""
    machine = visit.machine
    for pod in pods_of_machine(visit.cluster, machine.name, machine.namespace):
        if not is_over(pod):
            return NotReady("OtherPodRuns", f"waits until pod {pod['metadata']['name']!r}, which may run it, has ended")
    return None
