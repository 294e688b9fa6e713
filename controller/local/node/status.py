"""A pod's status, computed from its spec and the state of its containers. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controller.api.pod_claims import CLAIMS_MOUNTED_CONDITION
from controller.local.node.process import Exit
from controller.local.node.restarts import restarts

Object = dict[str, Any]


@dataclass(frozen=True)
class ContainerView:
    """One container at one moment: it waits (`waiting`, a reason), runs (`started_at`) or has ended (`ended`)."""

    name: str
    image: str = ""
    restarts: int = 0
    waiting: str = ""
    message: str = ""
    started_at: str = ""
    ended: Exit | None = None
    previous: Exit | None = None
    ready: bool = False
    container_id: str = ""

    @property
    def running(self) -> bool:
        return bool(self.started_at)


def pod_status(
    pod: Object,
    init_containers: Sequence[ContainerView],
    containers: Sequence[ContainerView],
    *,
    pod_ip: str,
    host_ip: str,
    now: str,
    failure: tuple[str, str] | None = None,
    unmounted: Sequence[str] | None = None,
) -> Object:
    """The status of a pod that is bound to this node.

    `failure` (reason, message) is why the node itself ended the pod, if it did. `unmounted` says what is missing of the
    additional claims, None for a pod without any. Conditions keep their `lastTransitionTime` from the pod's present
    status as long as they say the same.
    """
    old: Object = pod.get("status") or {}
    policy = pod["spec"].get("restartPolicy", "Always")
    initialized = all(view.ended is not None and view.ended.exit_code == 0 for view in init_containers)
    phase = "Failed" if failure else _phase(policy, init_containers, containers, initialized)
    unready = [view.name for view in containers if not view.ready]
    done = phase in ("Succeeded", "Failed")
    ready = ("False", "PodCompleted" if phase == "Succeeded" else "PodFailed", "") if done else _readiness(unready)
    incomplete = [view.name for view in init_containers if view.ended is None or view.ended.exit_code != 0]
    complete = ("False", "ContainersNotInitialized", f"containers with incomplete status: {incomplete}")
    conditions = [
        ("PodScheduled", ("True", "", "")),
        ("Initialized", ("True", "", "") if initialized else complete),
        ("ContainersReady", ready),
        ("Ready", ready),
    ]
    if unmounted is not None:
        mounted = ("False", "FailedMount", "; ".join(unmounted)) if unmounted else ("True", "", "")
        conditions.append((CLAIMS_MOUNTED_CONDITION, mounted))
    status: Object = {
        "phase": phase,
        "conditions": _conditions(conditions, old.get("conditions") or [], now),
        "hostIP": host_ip,
        "podIP": pod_ip,
        "podIPs": [{"ip": pod_ip}] if pod_ip else [],
        "startTime": old.get("startTime") or now,
        "containerStatuses": [_container(view) for view in containers],
    }
    if init_containers:
        status["initContainerStatuses"] = [_container(view) for view in init_containers]
    if failure:
        status["reason"], status["message"] = failure
    return status


def without_nulls(value: Any) -> Any:
    """The value without the fields that say nothing: kube-apiserver adds some to what it was given."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def _phase(policy: str, inits: Sequence[ContainerView], views: Sequence[ContainerView], initialized: bool) -> str:
    if policy == "Never" and any(view.ended and view.ended.exit_code for view in inits):
        return "Failed"
    if not initialized:
        return "Pending"
    finals = [view.ended for view in views if view.ended and not restarts(policy, view.ended.exit_code)]
    if len(finals) == len(views):
        return "Failed" if any(final.exit_code for final in finals) else "Succeeded"
    if any(not view.running and view.ended is None and view.previous is None for view in views):
        return "Pending"
    return "Running"


def _readiness(unready: Sequence[str]) -> tuple[str, str, str]:
    if not unready:
        return "True", "", ""
    return "False", "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"


def _conditions(fresh: list[tuple[str, tuple[str, str, str]]], old: list[Object], now: str) -> list[Object]:
    known = {condition["type"]: condition for condition in old}
    conditions = []
    for kind, (status, reason, message) in fresh:
        before = known.get(kind, {})
        since = before.get("lastTransitionTime") if before.get("status") == status else None
        condition = {"type": kind, "status": status, "lastTransitionTime": since or now}
        if reason:
            condition |= {"reason": reason, "message": message}
        conditions.append(condition)
    return conditions


def _container(view: ContainerView) -> Object:
    if view.ended:
        state = _terminated(view.ended, view.container_id)
    elif view.running:
        state = {"running": {"startedAt": view.started_at}}
    else:
        waiting = {"reason": view.waiting or "ContainerCreating"}
        state = {"waiting": waiting | ({"message": view.message} if view.message else {})}
    return {
        "name": view.name,
        "image": view.image,
        "imageID": "",
        **({"containerID": view.container_id} if view.container_id else {}),
        "restartCount": view.restarts,
        "started": view.running,
        "ready": view.ready,
        "state": state,
        "lastState": _terminated(view.previous, "") if view.previous else {},
    }


def _terminated(end: Exit, container_id: str) -> Object:
    terminated: Object = {"exitCode": end.exit_code, "reason": end.reason}
    if end.exit_code > 128 and end.reason == "Error":
        terminated["signal"] = end.exit_code - 128
    if end.message:
        terminated["message"] = end.message
    if end.started_at:
        terminated["startedAt"] = _seconds(end.started_at)
    terminated["finishedAt"] = _seconds(end.finished_at)
    if container_id:
        terminated["containerID"] = container_id
    return {"terminated": terminated}


def _seconds(moment: str) -> str:
    return moment[:19] + "Z"
