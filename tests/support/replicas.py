"""`dvcr controller` as processes, with stubs of all that they work with, and how often each thing was made."""

import os
import random
import subprocess
import sys
import threading
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import requests

from controller.api.resource import DISK, IMAGE, LEASE, MACHINE, POD, PVC, Resource
from controller.runtime.cluster import Cluster, Object
from controller.runtime.stream import WatchResponse
from dvcr.config import as_environment
from dvcr.jobs.redis import RedisJobBoard
from tests.support.cluster import ClusterProcess
from tests.support.fleet import Fleet, spec_of
from tests.support.kubernetes import free_port
from tests.support.redis import RedisServer
from tests.support.waiting import eventually

READY_S = 90
START_S = 40
READY = {IMAGE: "Ready", DISK: "Ready", MACHINE: "Running"}
_DVCR = (sys.executable, "-c", "from dvcr.cli.main import main; main()", "controller")


class Replica:
    """A process of the controller."""

    def __init__(self, settings: dict[str, Any], port: int, log: Path, *options: str) -> None:
        self._url = f"http://127.0.0.1:{port}/readyz"
        environment = {"PATH": os.environ["PATH"], "HOME": str(log.parent), **as_environment(settings)}
        with log.open("a") as output:
            self.process = subprocess.Popen(
                [*_DVCR, *options], env=environment, stdout=subprocess.PIPE, stderr=output, text=True
            )
        self.ended_at: datetime | None = None
        self._leads = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def leads(self) -> bool:
        """Whether it has begun to work, by its own word."""
        return self._leads.is_set()

    @property
    def is_ready(self) -> bool:
        """Whether its server for probes answers, which it starts right before it asks for the lease."""
        try:
            return requests.get(self._url, timeout=5).ok
        except requests.ConnectionError:
            return False

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("reconciling "):
                self._leads.set()
        # The system closes a process's output when it ends, however it ends.
        self.ended_at = datetime.now().astimezone()
        self.process.stdout.close()


class Made:
    """How often an object of each name was made."""

    def __init__(self, cluster: Cluster, resource: Resource) -> None:
        self.times: Counter[str] = Counter()
        _, version = cluster.list_page(resource, "")
        self._stream: WatchResponse = cluster.watch(resource, version, "")
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def _count(self) -> None:
        for event in self._stream:
            if event["type"] == "ADDED":
                self.times[event["object"]["metadata"]["name"]] += 1

    def close(self) -> None:
        self._stream.stop()
        self._thread.join()


class Site:
    """A cluster with all that a controller works with."""

    def __init__(self, server: ClusterProcess, redis: RedisServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.cluster = Cluster.connect(server.kubeconfig)
        self.pods, self.claims = Made(self.cluster, POD), Made(self.cluster, PVC)
        network = f"127.{random.randint(128, 250)}"  # pods' addresses of others who test here
        self.fleet = Fleet(self.cluster, RedisJobBoard.from_settings(redis.settings()), "default", network)
        self._redis = redis
        self._replicas: list[Replica] = []
        self._names: list[str] = []

    def start(self, kubeconfig: Path | None = None, *options: str) -> Replica:
        port = free_port()
        settings = {
            "controller": {"kubeconfig": kubeconfig or self.server.kubeconfig, "machine_api": {"port": 0}},
            "broker": {"url": self._redis.url},
            "client": {"url": self.fleet.registry_url},
            "monitoring": {"port": port},
            "log": {"style": "json"},
        }
        replica = Replica(settings, port, self.folder / f"replica-{len(self._replicas)}.log", *options)
        self._replicas.append(replica)
        return replica

    def leader(self, kubeconfig: Path | None = None) -> Replica:
        """A replica that leads."""
        replica = self.start(kubeconfig)
        eventually(lambda: replica.leads, "the first replica leads", START_S)
        return replica

    def candidate(self) -> Replica:
        """A replica that waits to lead."""
        replica = self.start()
        eventually(lambda: replica.is_ready, "the second replica is ready", START_S)
        return replica

    def lease(self) -> Object:
        lease = self.cluster.get(LEASE, "dvcr-controller", "default")
        assert lease is not None
        spec: Object = lease["spec"]
        return spec

    def apply(self, *names: str) -> None:
        """An image, a disk made of it and a machine with that disk, of each name."""
        self._names += names
        for name in names:
            for resource in READY:
                metadata = {"name": name, "namespace": "default"}
                obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
                self.cluster.create(resource, obj | {"spec": spec_of(resource, name)})

    def waiting(self) -> list[str]:
        """What is not yet as it is to be."""
        found = []
        for resource, phase in READY.items():
            objects = {obj["metadata"]["name"]: obj for obj in self.cluster.list(resource, "default")}
            for name in self._names:
                if (objects[name].get("status") or {}).get("phase") != phase:
                    found.append(f"{resource.kind} {name}")
        return found

    def all_ready_and_once(self) -> None:
        """Wait until everything is as it is to be, and look that nothing was done twice for that."""
        eventually(lambda: not self.waiting(), "everything is ready", READY_S, 0.2)
        assert self.pods.times == {f"vm-{name}": 1 for name in self._names}
        assert self.claims.times == {f"vmd-{name}": 1 for name in self._names}
        uids = [self.cluster.get(IMAGE, name, "default")["metadata"]["uid"] for name in self._names]  # type: ignore[index]
        assert self.fleet.taken == dict.fromkeys(uids, 1)

    def logs(self) -> str:
        return "".join(log.read_text() for log in sorted(self.folder.glob("replica-*.log")))

    def close(self) -> None:
        for replica in self._replicas:
            replica.close()
        self.pods.close()
        self.claims.close()
