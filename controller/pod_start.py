"""What keeps a pod from running, in the words of the scheduler and of its node."""

from collections.abc import Iterator

from controller.runtime.index import Object


def start_obstacle(pod: Object) -> str:
    """Why the pod has no node, or its containers do not start; empty where nobody says why. Pure."""
    return next(_obstacles(pod.get("status") or {}), "")


def with_obstacle(waits: str, pod: Object) -> str:
    """What is waited for, with what keeps the pod from running if that is known."""
    why = start_obstacle(pod)
    return f"{waits}: {why}" if why else waits


def _obstacles(status: Object) -> Iterator[str]:
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False" and condition.get("message"):
            yield condition["message"]
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        # That a container is being made needs no words, and has none.
        if waiting.get("message"):
            yield f"{waiting.get('reason', 'Waiting')}: {waiting['message']}"
