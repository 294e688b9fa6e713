"""What a machine's pod may read of the registry: the images that it shows, and those that its disks still need."""

from collections.abc import Iterator

from controller.api.machine import BlockDeviceType
from controller.api.pod_claims import claims_of, volume_claims
from controller.api.resource import CLUSTER_IMAGE, IMAGE
from controller.disks.claim import pinned_image, stands_alone
from controller.images.existing import repository_of
from controller.machines.pod import applied_devices, is_finished
from controller.machines.visit import Flow, Step, Visit
from controller.registry_access import RegistryAccess, pulls
from controller.runtime.index import Object
from dvcr.errors import ResourceError

_KINDS = {BlockDeviceType.IMAGE: IMAGE, BlockDeviceType.CLUSTER_IMAGE: CLUSTER_IMAGE}


def image_scopes(visit: Visit, pod: Object) -> set[str]:
    """The scopes that the pod needs as it is now."""
    return pulls(_repositories(visit, pod), pod["metadata"]["namespace"])


def keep_access(access: RegistryAccess) -> Step:
    """The step that replaces what a running machine shows to the registry in time, and when its disks are others.

    A machine whose disks stand alone needs nothing of the registry, and nothing is replaced.
    """

    def step(visit: Visit) -> Flow:
        if visit.pod is not None and not is_finished(visit.pod):
            visit.pod = access.renew(visit.cluster, visit.pod, image_scopes(visit, visit.pod))
        return Flow.ON

    return step


def _repositories(visit: Visit, pod: Object) -> Iterator[str]:
    for device in applied_devices(pod):
        if device.type in _KINDS:
            yield repository_of(_KINDS[device.type], device.name, visit.machine.namespace)
    for name in _claims(pod):
        claim = visit.claim(name)
        if claim is not None and not stands_alone(claim):
            pinned = pinned_image(claim)
            assert pinned is not None
            yield pinned[0]


def _claims(pod: Object) -> set[str]:
    try:
        return claims_of(pod)
    except (ResourceError, ValueError):
        # Somebody broke the pod's annotations; the machine must be stopped and removed all the same.
        return volume_claims(pod)
