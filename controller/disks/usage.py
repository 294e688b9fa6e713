"""Who uses a disk: a claim is written to by one pod at a time, and not while it is captured."""

from controller.api.pod_claims import claims_of
from controller.api.resource import GROUP, MACHINE, POD
from controller.runtime.informer import Object
from controller.runtime.port import ClusterPort

CAPTURE_ANNOTATION = f"{GROUP}/captures-for"
"""On the pod that makes an image of a disk: the image, for people."""


def pods_using(cluster: ClusterPort, claim: str, namespace: str | None) -> list[Object]:
    """All pods that use the claim, by name."""
    pods = [pod for pod in cluster.list(POD, namespace) if claim in claims_of(pod)]
    return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))


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
