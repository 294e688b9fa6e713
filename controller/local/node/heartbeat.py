"""The Node object: this agent's registration, capacity and sign of life."""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.api.resource import NODE
from controller.local.node.clock import timestamp
from controller.runtime.cluster import Cluster
from controller.runtime.errors import AlreadyExistsError

Object = dict[str, Any]

INTERVAL_S = 10.0
MAX_PODS = 110


@dataclass(frozen=True)
class Fact:
    """What a condition of the Node says."""

    holds: bool
    reason: str
    message: str


class Heartbeat:
    """Keeps the Node object of this agent, whose logs are served at `host`:`log_port`."""

    def __init__(self, cluster: Cluster, name: str, pod_cidr: str, data_dir: Path, host: str, log_port: int) -> None:
        self._cluster = cluster
        self._name = name
        self._pod_cidr = pod_cidr
        self._data_dir = data_dir
        self._host = host
        self._log_port = log_port
        self._facts: dict[str, Fact] = {}

    def tell(self, condition: str, fact: Fact) -> None:
        """Show the fact as a condition of the Node from the next beat on. Thread-safe."""
        self._facts = self._facts | {condition: fact}

    def register(self) -> None:
        """Make the Node object if there is none, and say that it is ready."""
        labels = {
            "kubernetes.io/hostname": self._name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": _architecture(),
        }
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._name, "labels": labels}}
        try:
            self._cluster.create(NODE, node | {"spec": {"podCIDR": self._pod_cidr, "podCIDRs": [self._pod_cidr]}})
        except AlreadyExistsError:
            self._cluster.patch(NODE, self._name, {"metadata": {"labels": labels}})
        self.beat()

    def beat(self, *, ready: bool = True) -> Object:
        """Write the status; returns the Node."""
        now = timestamp()
        old = self._cluster.get(NODE, self._name) or {}
        told = Fact(True, "NodeReady", "the node agent runs")
        if not ready:
            told = Fact(False, "NodeShutdown", "the node agent was stopped")
        facts = {"Ready": told} | self._facts
        conditions = [_condition(old, kind, fact, now) for kind, fact in facts.items()]
        return self._cluster.patch(
            NODE,
            self._name,
            {
                "status": {
                    "conditions": conditions,
                    "capacity": self._capacity(),
                    "allocatable": self._capacity(),
                    "addresses": [
                        {"type": "InternalIP", "address": self._host},
                        {"type": "Hostname", "address": self._name},
                    ],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": self._log_port}},
                    "nodeInfo": {
                        "architecture": _architecture(),
                        "containerRuntimeVersion": "process://1",
                        "kernelVersion": platform.release(),
                        "kubeletVersion": "v1.30.0+dvcr",
                        "kubeProxyVersion": "",
                        "machineID": "",
                        "systemUUID": "",
                        "bootID": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
                        "operatingSystem": "linux",
                        "osImage": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
                    },
                }
            },
            subresource="status",
        )

    def _capacity(self) -> Object:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return {
            "cpu": str(os.cpu_count() or 1),
            "memory": f"{pages // 1024}Ki",
            "pods": str(MAX_PODS),
            "ephemeral-storage": str(shutil.disk_usage(self._data_dir).total),
        }


def _condition(node: Object, kind: str, fact: Fact, now: str) -> Object:
    status = str(fact.holds)
    before: Object = next((c for c in node.get("status", {}).get("conditions") or () if c["type"] == kind), {})
    return {
        "type": kind,
        "status": status,
        "reason": fact.reason,
        "message": fact.message,
        "lastHeartbeatTime": now,
        "lastTransitionTime": before["lastTransitionTime"] if before.get("status") == status else now,
    }


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
