"""Who uses a disk: a claim is written to by one pod at a time, and not while it is captured."""

from controller.api.resource import GROUP, POD
from controller.runtime.informer import Object
from controller.runtime.port import ClusterPort

CAPTURE_ANNOTATION = f"{GROUP}/captures-for"
"""On the pod that makes an image of a disk: the image, for people."""


def claims_of(pod: Object) -> set[str]:
    """Names of the claims that the pod mounts."""
    return {
        v["persistentVolumeClaim"]["claimName"] for v in pod["spec"].get("volumes", []) if "persistentVolumeClaim" in v
    }


def pods_using(cluster: ClusterPort, claim: str, namespace: str | None) -> list[Object]:
    """All pods that mount the claim, by name."""
    pods = [pod for pod in cluster.list(POD, namespace) if claim in claims_of(pod)]
    return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))


def is_over(pod: Object) -> bool:
    """Whether the pod's containers have ended for good."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def captured_for(pod: Object) -> str | None:
    """The image that the pod makes of its disk; None if it does not."""
    image: str | None = (pod["metadata"].get("annotations") or {}).get(CAPTURE_ANNOTATION)
    return image
