"""What tables show of pods, nodes and claims; test_kubectl_on_both compares the rest with Kubernetes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.local import cells

Object = dict[str, Any]


def pod(phase: str = "Running", *containers: Object, **status: Any) -> Object:
    return {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}][: len(containers) or 1], "initContainers": [{}, {}]},
        "status": {"phase": phase, "containerStatuses": [*containers], **status},
    }


def running(*, ready: bool = True, restarts: int = 0) -> Object:
    return {"ready": ready, "restartCount": restarts, "state": {"running": {}}}


def waiting(reason: str) -> Object:
    return {"ready": False, "restartCount": 2, "state": {"waiting": {"reason": reason}}}


def ended(code: int, **more: Any) -> Object:
    return {"ready": False, "restartCount": 0, "state": {"terminated": {"exitCode": code, **more}}}


@pytest.mark.parametrize(
    ("shown", "ready", "status"),
    [
        (pod("Pending"), "0/1", "Pending"),
        (pod("Running", running()), "1/1", "Running"),
        (pod("Running", running(), running(ready=False)), "1/2", "Running"),
        (pod("Running", waiting("CrashLoopBackOff")), "0/1", "CrashLoopBackOff"),
        (pod("Succeeded", ended(0, reason="Completed")), "0/1", "Completed"),
        (pod("Failed", ended(3)), "0/1", "ExitCode:3"),
        (pod("Failed", ended(137, signal=9)), "0/1", "Signal:9"),
        (pod("Failed", reason="Evicted"), "0/1", "Evicted"),
        (pod("Pending", initContainerStatuses=[ended(0), running()]), "0/1", "Init:1/2"),
        (pod("Pending", initContainerStatuses=[ended(1, reason="Error")]), "0/1", "Init:Error"),
    ],
)
def test_a_pod(shown: Object, ready: str, status: str) -> None:
    assert (cells.pod_ready(shown), cells.pod_status(shown)) == (ready, status)


def test_a_pod_that_goes() -> None:
    shown = pod("Running", running())
    shown["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert cells.pod_status(shown) == "Terminating"


def test_restarts_and_when_the_last_was() -> None:
    assert cells.pod_restarts(pod("Running", running())) == "0"
    end = (datetime.now(UTC) - timedelta(minutes=5, seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    again = running(restarts=2) | {"lastState": {"terminated": {"finishedAt": end}}}
    assert cells.pod_restarts(pod("Running", running(), again)).startswith("2 (5m")


def test_a_node() -> None:
    node: Object = {
        "metadata": {"labels": {"node-role.kubernetes.io/worker": ""}},
        "spec": {"unschedulable": True},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    assert (cells.node_status(node), cells.node_roles(node)) == ("Ready,SchedulingDisabled", "worker")
    node = {"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    assert (cells.node_status(node), cells.node_roles(node)) == ("NotReady", "<none>")


def test_a_claim_shows_what_its_volume_has() -> None:
    status = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]}
    claim: Object = {"metadata": {}, "spec": {"volumeName": "v"}, "status": status}
    assert (cells.claim_capacity(claim), cells.claim_modes(claim)) == ("1Gi", "RWO,RWX")
    claim["spec"] = {}
    assert (cells.claim_capacity(claim), cells.claim_modes(claim)) == ("", "")
