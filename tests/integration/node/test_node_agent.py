"""The node agent with real processes, on a cluster."""

import base64
import http.client
import json
import os
import signal
import ssl
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.api.pod_claims import ADDITIONAL_CLAIMS_ANNOTATION, CLAIMS_MOUNTED_CONDITION
from controller.api.resource import ADDRESS_ANNOTATION, CONFIG_MAP, EVENT, NODE, POD, PV, PVC, SECRET
from controller.local.node.agent import Agent
from controller.local.node.devices import BlockDevices
from controller.local.node.process import Process
from controller.runtime.cluster import Cluster
from dvcr.config import NodeSettings
from dvcr.errors import ConfigError
from tests.support.cluster import ClusterProcess
from tests.support.waiting import eventually

Object = dict[str, Any]


class Site:
    """A cluster and one node, with shorthands."""

    def __init__(self, cluster: Cluster, name: str, data_dir: Path) -> None:
        self.cluster = cluster
        self.name = name
        self.data_dir = data_dir
        self.agent = self.start()

    def start(self) -> Agent:
        settings = NodeSettings(name=self.name, data_dir=self.data_dir, pod_cidr="127.99.0.0/16")
        self.agent = Agent(settings, self.cluster)
        self.agent.start()
        return self.agent

    def clear(self) -> None:
        for pod in self.cluster.list(POD):
            self.cluster.delete(POD, pod["metadata"]["name"], "default", grace_period_s=0)
        self.agent.stop()

    def reasons(self) -> set[str]:
        return {event["reason"] for event in self.cluster.list(EVENT)}

    def pod(
        self, name: str, *command: str, policy: str = "Never", container: Object | None = None, **spec: Any
    ) -> Object:
        main = {"name": "main", "image": "none", "command": list(command)} | (container or {})
        return self.cluster.create(
            POD,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"restartPolicy": policy, "automountServiceAccountToken": False, "containers": [main], **spec},
            },
        )

    def status(self, name: str) -> Object:
        pod = self.cluster.get(POD, name, "default")
        return dict(pod["status"]) if pod else {"phase": "Gone"}

    def state(self, name: str) -> Object:
        statuses = self.status(name).get("containerStatuses")
        return dict(statuses[0]) if statuses else {"state": {}, "restartCount": -1, "ready": False}

    def until(self, name: str, condition: Callable[[Object, Object], object], what: str) -> None:
        try:
            eventually(lambda: condition(self.status(name), self.state(name)), what, 15)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; status: {self.status(name)}") from exc

    def until_phase(self, name: str, phase: str) -> None:
        self.until(name, lambda status, _: status["phase"] == phase, f"{name} {phase}")

    def root(self, pod: Object) -> Path:
        return self.data_dir / "pods" / str(pod["metadata"]["uid"]) / "main" / "root"

    def log(self, name: str, query: str = "") -> bytes:
        node = self.cluster.get(NODE, self.name)
        assert node is not None
        port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
        connection.request("GET", f"/containerLogs/default/{name}/main{query}")
        body = connection.getresponse().read()
        connection.close()
        return body

    def processes(self) -> list[int]:
        """Whatever still runs for a pod of this node."""
        mark = f"DVCR_RUN_ID={self.data_dir.resolve()}/".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


@pytest.fixture
def site(tmp_path: Path, shared_cluster: ClusterProcess) -> Iterator[Site]:
    # The nodes of earlier tests are gone for good, so each has a name of its own.
    site = Site(Cluster.connect(shared_cluster.kubeconfig), f"node-{uuid.uuid4().hex[:8]}", tmp_path / "node")
    yield site
    site.clear()
    assert site.processes() == []


SLEEP = ("sh", "-c", "echo up; exec sleep 1000")


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


def test_volumes_of_every_kind(site: Site) -> None:
    site.cluster.create(
        SECRET,
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key", "namespace": "default"},
         "data": {"machine.json": base64.b64encode(b"{}").decode()}},
    )  # fmt: skip
    site.cluster.create(
        CONFIG_MAP,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "conf", "namespace": "default"},
            "data": {"a": "1"},
        },
    )
    pod = site.pod(
        "volumes", *SLEEP,
        container={"volumeMounts": [
            {"name": "key", "mountPath": "/etc/dvcr"},
            {"name": "conf", "mountPath": "/conf"},
            {"name": "empty", "mountPath": "/run/empty"},
        ]},
        volumes=[
            {"name": "key", "secret": {"secretName": "key", "defaultMode": 0o400}},
            {"name": "conf", "configMap": {"name": "conf", "items": [{"key": "a", "path": "x/b"}]}},
            {"name": "empty", "emptyDir": {}},
        ],
    )  # fmt: skip
    site.until_phase("volumes", "Running")
    root = site.root(pod)
    assert (root / "etc/dvcr/machine.json").read_bytes() == b"{}"
    assert (root / "etc/dvcr/machine.json").stat().st_mode & 0o777 == 0o400
    assert (root / "conf/x/b").read_text() == "1"
    assert list((root / "run/empty").iterdir()) == []


def test_a_missing_secret_is_waited_for_and_named(site: Site) -> None:
    site.pod("waits", "true", volumes=[{"name": "key", "secret": {"secretName": "later"}}])
    site.until("waits", lambda _, s: "'later' not found" in str(s["state"]), "the reason is told")
    site.cluster.create(
        SECRET,
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later", "namespace": "default"}, "data": {}},
    )
    site.until_phase("waits", "Succeeded")


def claim(size: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "disk", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }


def claim_status(site: Site) -> Object:
    found = site.cluster.get(PVC, "disk", "default")
    return dict((found or {}).get("status") or {})


def test_a_claim_is_bound_grows_is_kept_while_used_and_goes_with_its_folder(site: Site) -> None:
    site.cluster.create(PVC, claim("1Gi"))
    eventually(lambda: claim_status(site).get("phase") == "Bound", "bound")
    volume = site.cluster.list(PV)[0]
    assert volume["status"]["phase"] == "Bound"
    folder = site.data_dir / "volumes" / volume["metadata"]["name"]

    site.pod(
        "user", "sh", "-c", "echo data > data/file; exec sleep 1000",
        container={"volumeMounts": [{"name": "disk", "mountPath": "/data"}]},
        volumes=[{"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}],
    )  # fmt: skip
    eventually((folder / "file").exists, "the pod writes to its volume")

    site.cluster.patch(PVC, "disk", {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}, "default")
    eventually(lambda: claim_status(site)["capacity"] == {"storage": "2Gi"}, "grown")
    assert site.cluster.list(PV)[0]["spec"]["capacity"] == {"storage": "2Gi"}

    site.cluster.delete(PVC, "disk", "default")
    eventually(lambda: "InUse" in site.reasons(), "told that it is in use")
    assert (folder / "file").read_text() == "data\n"

    site.cluster.delete(POD, "user", "default", grace_period_s=1)
    eventually(lambda: not site.cluster.list(PV), "the volume is gone")
    assert site.cluster.get(PVC, "disk", "default") is None
    assert not folder.exists()


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
    assert site.processes() == []


def test_a_forced_deletion_kills_at_once(site: Site) -> None:
    site.pod("forced", *SLEEP)
    site.until_phase("forced", "Running")
    site.cluster.delete(POD, "forced", "default", grace_period_s=0)
    eventually(lambda: site.processes() == [], "killed")


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
    eventually(lambda: site.processes() == [], "swept")


def test_stopping_the_agent_stops_its_pods(site: Site) -> None:
    site.pod("once", *SLEEP)
    site.pod("always", *SLEEP, policy="Always")
    for name in ("once", "always"):
        site.until_phase(name, "Running")
    site.agent.stop()
    assert site.processes() == []
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
    assert "nodeName" not in (site.cluster.get(POD, "picky", "default") or {})["spec"]


def block_claim(name: str, size: str) -> Object:
    spec = {
        "accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "resources": {"requests": {"storage": size}},
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def test_a_block_volume_is_a_device_of_its_size_that_grows_and_goes(site: Site) -> None:
    site.cluster.create(PVC, block_claim("raw", "1Mi"))
    pod = site.pod(
        "raw", "sh", "-c", "printf data > dev/disk; exec sleep 1000",
        container={"volumeDevices": [{"name": "disk", "devicePath": "/dev/disk"}]},
        volumes=[{"name": "disk", "persistentVolumeClaim": {"claimName": "raw"}}],
    )  # fmt: skip
    device = site.root(pod) / "dev/disk"

    def size() -> int:
        with device.open("rb") as file:
            return file.seek(0, os.SEEK_END)

    eventually(lambda: device.exists() and device.open("rb").read(4) == b"data", "the pod writes to its device")
    if os.geteuid() == 0:
        assert device.is_block_device()
    assert size() == 2**20

    site.cluster.patch(PVC, "raw", {"spec": {"resources": {"requests": {"storage": "3Mi"}}}}, "default")
    eventually(lambda: size() == 3 * 2**20, "grown under the pod")

    site.cluster.delete(POD, "raw", "default", grace_period_s=0)
    eventually(lambda: site.status("raw")["phase"] == "Gone", "the pod is gone")
    devices = BlockDevices(site.data_dir / "volumes")
    eventually(lambda: devices.opened() == set(), "the device is given back")
    (volume,) = site.cluster.list(PV)
    assert (site.data_dir / "volumes" / volume["metadata"]["name"] / "device").read_bytes()[:4] == b"data"
    site.cluster.delete(PVC, "raw", "default")
    eventually(lambda: not site.cluster.list(PV), "the volume is gone")


def annotate(site: Site, pod: str, claims: Object | None) -> None:
    annotation = {ADDITIONAL_CLAIMS_ANNOTATION: None if claims is None else json.dumps(claims)}
    site.cluster.patch(POD, pod, {"metadata": {"annotations": annotation}}, "default")


def mounted(site: Site, pod: str) -> tuple[str, str] | None:
    conditions = site.status(pod)["conditions"]
    return next(
        ((c["status"], c.get("message", "")) for c in conditions if c["type"] == CLAIMS_MOUNTED_CONDITION), None
    )


def test_claims_come_and_go_while_a_pod_runs_and_are_kept_while_it_has_them(site: Site) -> None:
    pod = site.pod("open", *SLEEP)
    site.until_phase("open", "Running")
    assert mounted(site, "open") is None
    annotate(site, "open", {"disk": {"container": "main", "mountPath": "/disks/data"},
                            "raw": {"container": "main", "devicePath": "/dev/raw"}})  # fmt: skip
    eventually(lambda: (mounted(site, "open") or ("",))[0] == "False", "told what is missing")
    assert "persistentvolumeclaim 'disk' not found" in (mounted(site, "open") or ("", ""))[1]

    site.cluster.create(PVC, claim("1Gi"))
    site.cluster.create(PVC, block_claim("raw", "1Mi"))
    eventually(lambda: mounted(site, "open") == ("True", ""), "mounted", 15)
    folder, device = site.root(pod) / "disks/data", site.root(pod) / "dev/raw"
    (folder / "file").write_text("data")
    assert device.exists()

    site.cluster.delete(PVC, "disk", "default")
    eventually(lambda: "InUse" in site.reasons(), "told that it is in use")
    # Whoever takes the node over unmounts what its predecessor mounted.
    record = site.data_dir / "pods" / pod["metadata"]["uid"] / "additional.json"
    assert json.loads(record.read_text()) == sorted([str(device), str(folder)])
    annotate(site, "open", {"raw": {"container": "main", "devicePath": "/dev/raw"}})
    eventually(lambda: not folder.is_symlink(), "unmounted")
    eventually(lambda: site.cluster.get(PVC, "disk", "default") is None, "the claim is gone")
    assert device.exists()
    annotate(site, "open", None)
    eventually(lambda: not device.is_symlink(), "unmounted too")
    assert site.status("open")["phase"] == "Running"
    annotate(site, "open", {"raw": {"container": "main"}})
    eventually(lambda: "needs either mountPath or devicePath" in str(mounted(site, "open")), "told what is wrong")
    annotate(site, "open", None)
    site.cluster.delete(PVC, "raw", "default")
    eventually(lambda: not site.cluster.list(PV), "the volumes are gone")


def test_a_volume_whose_folder_is_gone_is_lost_until_it_is_back(site: Site) -> None:
    site.cluster.create(PVC, claim("1Gi"))
    eventually(lambda: claim_status(site).get("phase") == "Bound", "bound")
    (volume,) = site.cluster.list(PV)
    folder = site.data_dir / "volumes" / volume["metadata"]["name"]
    folder.rename(site.data_dir / "away")
    eventually(lambda: claim_status(site)["phase"] == "Lost", "lost", 30)
    (site.data_dir / "away").rename(folder)
    eventually(lambda: claim_status(site)["phase"] == "Bound", "found", 30)
    site.cluster.delete(PVC, "disk", "default")
    eventually(lambda: not site.cluster.list(PV), "the volume is gone")
