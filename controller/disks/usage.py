"""Who uses a disk: a claim is written to by one pod at a time, and not while it is captured."""

from collections.abc import Iterator

from controller.api.pod_claims import claims_of, volume_claims
from controller.api.resource import GROUP, MACHINE, POD
from controller.runtime.index import Index, Object
from controller.runtime.port import ClusterReader
from dvcr.errors import ResourceError

CAPTURE_ANNOTATION = f"{GROUP}/captures-for"
"""On the pod that makes an image of a disk: the image, for people."""


def pods_using(cluster: ClusterReader, claim: str, namespace: str | None) -> list[Object]:
    """All pods that use the claim, by name."""
    return sorted(cluster.find(_BY_CLAIM, (namespace, claim)), key=lambda pod: str(pod["metadata"]["name"]))


def pods_of_machine(cluster: ClusterReader, machine: str, namespace: str | None) -> list[Object]:
    """All pods that run the machine, or did, or are to."""
    return cluster.find(_BY_MACHINE, (namespace, machine))


def is_over(pod: Object) -> bool:
    """Whether the pod's containers have ended for good."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def captured_for(pod: Object) -> str | None:
    """The image that the pod makes of its disk; None if it does not."""
    image: str | None = (pod["metadata"].get("annotations") or {}).get(CAPTURE_ANNOTATION)
    return image


def machine_of(pod: Object) -> str | None:
    """The VirtualMachine that the pod runs; None if it is none's."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((str(owner["name"]) for owner in owners if owner.get("kind") == MACHINE.kind), None)


def user_of(pod: Object) -> str:
    """Who uses the pod's disks, for people."""
    machine, captured = machine_of(pod), captured_for(pod)
    if machine is not None:
        return f"VirtualMachine {machine!r}"
    return f"the capture for {captured}" if captured else f"pod {pod['metadata']['name']!r}"


def _by_claim(pod: Object) -> Iterator[tuple[str, str]]:
    try:
        claims = claims_of(pod)
    except (ResourceError, ValueError):
        # Somebody broke the pod's annotations: it may use all that it was made with.
        claims = volume_claims(pod)
    for claim in claims:
        yield pod["metadata"]["namespace"], claim


def _by_machine(pod: Object) -> Iterator[tuple[str, str]]:
    machine = machine_of(pod)
    if machine is not None:
        yield pod["metadata"]["namespace"], machine


_BY_CLAIM = Index(POD, _by_claim)
_BY_MACHINE = Index(POD, _by_machine)
