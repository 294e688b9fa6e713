"""A pod's status out of the states of its containers."""

from typing import Any

import pytest

from controller.local.node.process import Exit
from controller.local.node.status import ContainerView, pod_status

NOW = "2026-01-02T00:00:00Z"
GOOD = Exit(0, "Completed", "", "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:01.5Z")
BAD = Exit(1, "Error", "why", "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:01.5Z")
RUNNING = ContainerView("main", started_at="2026-01-01T00:00:00Z", ready=True)
CREATING = ContainerView("main")
CRASHING = ContainerView("main", waiting="CrashLoopBackOff", previous=BAD, restarts=3)


def status(policy: str, *views: ContainerView, inits: tuple[ContainerView, ...] = (), **more: Any) -> dict[str, Any]:
    pod = {"spec": {"restartPolicy": policy}, "status": more.pop("old", {})}
    return pod_status(pod, inits, views, pod_ip="127.64.0.1", host_ip="127.0.0.1", now=NOW, **more)


@pytest.mark.parametrize(
    ("policy", "views", "phase"),
    [
        ("Always", [CREATING], "Pending"),
        ("Always", [RUNNING], "Running"),
        ("Always", [CRASHING], "Running"),
        ("Always", [RUNNING, CREATING], "Pending"),
        ("Never", [ContainerView("main", ended=GOOD)], "Succeeded"),
        ("Never", [ContainerView("main", ended=BAD)], "Failed"),
        ("Never", [ContainerView("main", ended=BAD), RUNNING], "Running"),
        ("OnFailure", [ContainerView("main", ended=GOOD)], "Succeeded"),
        ("OnFailure", [CRASHING], "Running"),
    ],
)
def test_phases(policy: str, views: list[ContainerView], phase: str) -> None:
    assert status(policy, *views)["phase"] == phase


def test_init_containers_hold_the_pod_back() -> None:
    running = ContainerView("init", started_at=NOW)
    assert status("Never", CREATING, inits=(running,))["phase"] == "Pending"
    assert status("Never", CREATING, inits=(ContainerView("init", ended=BAD),))["phase"] == "Failed"
    assert status("Never", RUNNING, inits=(ContainerView("init", ended=GOOD),))["phase"] == "Running"


def test_an_end_by_the_node_is_a_failure_whatever_the_exit_code() -> None:
    result = status("Never", ContainerView("main", ended=GOOD), failure=("Terminated", "shutdown"))
    assert (result["phase"], result["reason"], result["message"]) == ("Failed", "Terminated", "shutdown")


def test_conditions_keep_their_time_until_they_change() -> None:
    before = "2025-01-01T00:00:00Z"
    old = {"startTime": before, "conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": before},
        {"type": "Ready", "status": "False", "lastTransitionTime": before},
    ]}  # fmt: skip
    result = status("Always", RUNNING, old=old)
    times = {c["type"]: c["lastTransitionTime"] for c in result["conditions"]}
    assert times == {"PodScheduled": before, "Initialized": NOW, "ContainersReady": NOW, "Ready": NOW}
    assert result["startTime"] == before


def test_container_states_read_as_kubernetes_writes_them() -> None:
    killed = Exit(137, "Error", "", "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:01.5Z")
    crashed, ended = status("Never", CRASHING, ContainerView("two", ended=killed))["containerStatuses"]
    assert crashed["state"] == {"waiting": {"reason": "CrashLoopBackOff"}}
    assert crashed["restartCount"] == 3
    assert crashed["lastState"]["terminated"] == {
        "exitCode": 1, "reason": "Error", "message": "why",
        "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z",
    }  # fmt: skip
    assert ended["state"]["terminated"]["signal"] == 9
