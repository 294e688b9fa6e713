"""The node agent with real processes, on a cluster."""

import os
import signal
import sys
import threading
from typing import Any

import pytest

from controller.api.resource import ADDRESS_ANNOTATION, NODE, POD
from controller.local.node.agent import Agent
from controller.local.node.process import Process
from dvcr.config import NodeSettings
from dvcr.errors import ConfigError
from tests.support.node_site import SLEEP, Site
from tests.support.pod_processes import pod_processes
from tests.support.waiting import eventually

Object = dict[str, Any]


def test_a_pod_runs_to_success(site: Site) -> None:
    pod = site.pod(
        "one", "sh", "-c", 'echo "$GREETING $NAME $IP"; echo done > $DVCR_TERMINATION_LOG',
        container={"env": [
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "GREETING", "value": "hello-$(NAME)"},
        ]},
    )  # fmt: skip
    site.until_phase("one", "Succeeded")
    status = site.status("one")
    terminated = site.state("one")["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"], terminated["message"]) == (0, "Completed", "done\n")
    assert site.log("one") == f"hello-one one {status['podIP']}\n".encode()
    assert status["podIP"].startswith("127.99.")
    bound = site.cluster.get(POD, "one", "default")
    assert bound is not None
    assert bound["spec"]["nodeName"] == site.name
    assert pod["metadata"]["uid"] == bound["metadata"]["uid"]


def test_exit_codes_and_signals_are_told(site: Site) -> None:
    site.pod("bad", "sh", "-c", "exit 7")
    site.pod("killed", "sh", "-c", "kill -9 $$$$")
    site.pod("absent", "/no/such/program")
    for name in ("bad", "killed", "absent"):
        site.until_phase(name, "Failed")
    assert site.state("bad")["state"]["terminated"]["exitCode"] == 7
    assert site.state("killed")["state"]["terminated"]["signal"] == 9
    absent = site.state("absent")["state"]["terminated"]
    assert (absent["exitCode"], absent["reason"]) == (128, "StartError")
    assert "/no/such/program" in absent["message"]


def test_a_crashing_container_is_restarted_and_backs_off(site: Site) -> None:
    site.pod("crash", "sh", "-c", "echo oops; exit 1", policy="OnFailure")
    site.until(
        "crash",
        lambda _, state: (
            state["restartCount"] == 1 and state["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
        ),
        "back-off after one restart",
    )
    assert site.state("crash")["lastState"]["terminated"]["exitCode"] == 1
    assert site.status("crash")["phase"] == "Running"
    assert site.log("crash", "?previous=true") == b"oops\n"
    eventually(lambda: "BackOff" in site.reasons(), "the event")


def test_always_restarts_a_container_that_ended_well(site: Site) -> None:
    site.pod("again", "sh", "-c", "exit 0", policy="Always")
    site.until("again", lambda _, state: state["restartCount"] >= 1, "a restart")


def test_readiness_follows_the_probe(site: Site) -> None:
    probe = {"exec": {"command": ["test", "-e", "ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    pod = site.pod("probed", *SLEEP, container={"readinessProbe": probe})
    site.until_phase("probed", "Running")
    assert site.state("probed")["ready"] is False
    (site.root(pod) / "ready").touch()
    site.until("probed", lambda _, state: state["ready"], "ready")
    conditions = {c["type"]: c["status"] for c in site.status("probed")["conditions"]}
    assert conditions == {"PodScheduled": "True", "Initialized": "True", "ContainersReady": "True", "Ready": "True"}
    (site.root(pod) / "ready").unlink()
    site.until("probed", lambda _, state: not state["ready"], "unready")


def test_an_http_probe_asks_the_pods_address(site: Site) -> None:
    server = "import http.server as h, os; h.HTTPServer((os.environ['IP'], 8080), h.SimpleHTTPRequestHandler)"
    site.pod(
        "web", sys.executable, "-c", f"{server}.serve_forever()",
        container={
            "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
        },
    )  # fmt: skip
    site.until("web", lambda _, state: state["ready"], "ready")


def test_a_pod_gets_its_leased_address_as_soon_as_its_predecessor_has_left_it(site: Site) -> None:
    address = f"127.65.{os.getpid() % 250}.9"

    def leased(name: str) -> Object:
        metadata = {"name": name, "namespace": "default", "annotations": {ADDRESS_ANNOTATION: address}}
        containers = [{"name": "main", "image": "none", "command": list(SLEEP)}]
        spec = {
            "restartPolicy": "Never", "containers": containers, "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
        }  # fmt: skip
        return site.cluster.create(POD, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    leased("first")
    site.until("first", lambda status, _: status.get("podIP") == address, "the leased address")
    leased("second")
    eventually(lambda: "FailedAddress" in site.reasons(), "word of the address in use", 15)
    assert site.status("second").get("podIP") != address
    site.cluster.delete(POD, "first", "default")
    site.until("second", lambda status, _: status.get("podIP") == address, "the address of its predecessor")

    leased("waits")
    eventually(lambda: site.status("waits").get("phase") == "Pending", "a third that waits", 15)
    site.cluster.delete(POD, "waits", "default", grace_period_s=1)
    eventually(lambda: site.cluster.get(POD, "waits", "default") is None, "the end of one that never had it", 15)


def test_init_containers_run_first_and_their_failure_is_final(site: Site) -> None:
    init = [{"name": "prepare", "image": "none", "command": ["sh", "-c", "exit 3"]}]
    site.pod("init", *SLEEP, initContainers=init)
    site.until_phase("init", "Failed")
    good = [{"name": "prepare", "image": "none", "command": ["sh", "-c", "exit 0"]}]
    site.pod("fine", "true", initContainers=good)
    site.until_phase("fine", "Succeeded")
    assert site.state("init")["state"]["waiting"]["reason"] == "ContainerCreating"


def test_deletion_asks_first(site: Site) -> None:
    pod = site.pod("polite", "sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    eventually(lambda: b"up" in site.log("polite"), "started")
    followed: list[bytes] = []
    follower = threading.Thread(target=lambda: followed.append(site.log("polite", "?follow=true")))
    follower.start()
    site.cluster.delete(POD, "polite", "default", grace_period_s=20)
    site.until_phase("polite", "Gone")
    follower.join(10)
    assert followed == [b"up\nbye\n"]
    assert not site.root(pod).parent.parent.exists()


def test_deletion_kills_the_whole_session_after_the_grace_period(site: Site) -> None:
    site.pod("stubborn", "sh", "-c", "trap '' TERM; (setsid sleep 1000 &); echo up; while :; do sleep 1; done")
    eventually(lambda: b"up" in site.log("stubborn"), "started")
    site.cluster.delete(POD, "stubborn", "default", grace_period_s=1)
    site.until_phase("stubborn", "Gone")
    assert pod_processes(site.data_dir) == []


def test_a_forced_deletion_kills_at_once(site: Site) -> None:
    site.pod("forced", *SLEEP)
    site.until_phase("forced", "Running")
    site.cluster.delete(POD, "forced", "default", grace_period_s=0)
    eventually(lambda: pod_processes(site.data_dir) == [], "killed")


def test_logs_tail_and_follow(site: Site) -> None:
    site.pod("talks", "sh", "-c", "for i in 1 2 3; do echo line $i; done; sleep 0.5; printf end")
    site.until_phase("talks", "Running")
    assert site.log("talks", "?follow=true") == b"line 1\nline 2\nline 3\nend"
    assert site.log("talks", "?tailLines=2") == b"line 3\nend"
    assert b"is not on this node" in site.log("unknown")


def test_a_lost_supervisor_fails_the_container_and_leaves_nothing(site: Site) -> None:
    pod = site.pod("lost", "sh", "-c", "(setsid sleep 1000 &); echo up; sleep 1000")
    eventually(lambda: b"up" in site.log("lost"), "started")
    run = site.root(pod).parent / "0"
    shim = Process(run)._shim_pid()
    assert shim is not None
    os.kill(shim, signal.SIGKILL)
    site.until_phase("lost", "Failed")
    assert site.state("lost")["state"]["terminated"]["reason"] == "ContainerStatusUnknown"
    eventually(lambda: pod_processes(site.data_dir) == [], "swept")


def test_stopping_the_agent_stops_its_pods(site: Site) -> None:
    site.pod("once", *SLEEP)
    site.pod("always", *SLEEP, policy="Always")
    for name in ("once", "always"):
        site.until_phase(name, "Running")
    site.agent.stop()
    assert pod_processes(site.data_dir) == []
    assert (site.status("once")["phase"], site.status("once")["reason"]) == ("Failed", "Terminated")
    node = site.cluster.get(NODE, site.name)
    assert node is not None
    assert node["status"]["conditions"][0]["status"] == "False"
    site.start()
    site.until("always", lambda _, state: state["restartCount"] == 1 and "running" in state["state"], "started again")
    assert site.status("once")["phase"] == "Failed"


def test_one_agent_per_data_folder(site: Site) -> None:
    with pytest.raises(ConfigError, match="another node agent"):
        Agent(NodeSettings(data_dir=site.data_dir), site.cluster)


def test_pods_that_do_not_fit_stay_unbound(site: Site) -> None:
    site.pod("picky", "true", nodeSelector={"disk": "ssd"})
    eventually(lambda: "FailedScheduling" in site.reasons(), "the event")
    eventually(lambda: site.status("picky").get("conditions"), "the condition")
    assert "nodeName" not in (site.cluster.get(POD, "picky", "default") or {})["spec"]
    (condition,) = site.status("picky")["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("PodScheduled", "False", "Unschedulable")
    assert condition["message"] == f"node {site.name}: the node does not have the label disk=ssd"
