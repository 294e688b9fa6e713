"""The node agent: follows the API and keeps a worker for every pod of its node."""

import fcntl
import json
import os
import queue
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from controller.api.pod_claims import claims_of
from controller.api.resource import NODE, POD, PV, PVC
from controller.local.node.addresses import AddressPool
from controller.local.node.cgroups import CPU_WEIGHTS, CpuGroups
from controller.local.node.claims import ClaimBinder
from controller.local.node.clock import timestamp
from controller.local.node.devices import BlockDevices
from controller.local.node.events import NodeEvents
from controller.local.node.heartbeat import INTERVAL_S, Fact, Heartbeat
from controller.local.node.placement import misfit, tell_misfit
from controller.local.node.pods import HOST_IP, Node, PodWorker
from controller.local.node.process import Process
from controller.local.node.restarts import Backoff
from controller.local.node.server import LogServer
from controller.runtime.cluster import Cluster
from controller.runtime.errors import ClusterError, ConflictError, MissingError
from dvcr.config import NodeSettings
from dvcr.errors import ConfigError, DvcrError

Object = dict[str, Any]
_RETRY_S = 2.0
_SYNC_TIMEOUT_S = 30.0
_log = structlog.get_logger(__name__)


class Agent:
    """Runs the pods of one node until `stop`. One agent at a time per data folder: ConfigError otherwise.

    `start` returns once the node is registered and the pods that were left running are in its hands again; it raises
    ClusterError if the API cannot be reached.
    """

    def __init__(
        self,
        settings: NodeSettings,
        cluster: Cluster,
        backoff: Backoff | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        """`cache_dir`: the folder that the machines of this node share for chunks."""
        data_dir = settings.data_dir.absolute()
        for name in ("pods", "volumes"):
            (data_dir / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(data_dir)
        self._cluster = cluster
        self._events = NodeEvents(cluster, settings.name)
        addresses = AddressPool(settings.pod_cidr)
        cpu = CpuGroups.find(settings.name)
        shared = settings.shared_volumes_dir
        if shared is not None:
            shared.mkdir(parents=True, exist_ok=True, mode=0o700)
            shared = shared.absolute()
        self._node = Node(
            settings.name,
            data_dir,
            cluster,
            addresses,
            self._events,
            backoff or Backoff(),
            cpu,
            shared,
            cache_dir.absolute() if cache_dir is not None else None,
        )
        self._claims = [
            ClaimBinder(
                cluster,
                settings.name,
                folder,
                self._events,
                self._users_of_claim,
                shared=folder != self._node.volumes_dir,
            )
            for folder in self._node.volume_folders
        ]
        self._devices = BlockDevices(self._node.volumes_dir)
        self._server = LogServer(self._find_container, lambda run: Process(run).alive, HOST_IP)
        port = self._server.start()
        self._heartbeat = Heartbeat(cluster, settings.name, settings.pod_cidr, data_dir, HOST_IP, port)
        self.tell(CPU_WEIGHTS, cpu.fact())
        self._workers: dict[str, PodWorker] = {}
        self._workers_lock = threading.Lock()
        self._todo: queue.SimpleQueue[tuple[str, str, str]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name="agent", daemon=True),
            threading.Thread(target=self._beat, name="heartbeat", daemon=True),
        ]

    def start(self) -> None:
        self._heartbeat.register()
        for binder in self._claims:
            binder.ensure_class()
        left = self._left_behind()
        self._volumes = self._cluster.inform(PV, lambda _, name: self._todo.put(("volume", "", name)))
        self._pvcs = self._cluster.inform(PVC, lambda namespace, name: self._todo.put(("claim", namespace, name)))
        self._pods = self._cluster.inform(POD, lambda namespace, name: self._todo.put(("pod", namespace, name)))
        for informer in (self._volumes, self._pvcs, self._pods):
            if not informer.wait_synced(_SYNC_TIMEOUT_S):
                raise ClusterError(f"the Kubernetes API at {self._cluster.server} did not answer in time")
        for uid, record in left.items():
            self._work_on(uid, record["namespace"], record["name"])
        for thread in self._threads:
            thread.start()

    def tell(self, condition: str, fact: Fact) -> None:
        """Show the fact as a condition of the Node, from the next sign of life on."""
        self._heartbeat.tell(condition, fact)

    def stop(self) -> None:
        """Stop every pod, each within its grace period, and the agent."""
        self._stopping.set()
        self._todo.put(("stop", "", ""))
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        with self._workers_lock:
            workers = list(self._workers.values())
        for worker in workers:
            worker.shut_down()
        for worker in workers:
            worker.join()
        for volume in self._devices.opened():
            self._devices.close(volume)
        try:
            self._heartbeat.beat(ready=False)
        except ClusterError as exc:
            _log.warning("cannot say goodbye to the API", error=exc.message)
        for informer in (self._pods, self._pvcs, self._volumes):
            informer.stop()
        self._server.stop()
        self._node.addresses.close()
        os.close(self._lock)

    def _work(self) -> None:
        """Take up what the informers tell, one after the other; what fails is tried again later."""
        while not self._stopping.is_set():
            kind, namespace, name = self._todo.get()
            try:
                if kind == "pod":
                    self._pod_changed(namespace, name)
                elif kind == "claim":
                    for binder in self._claims:
                        binder.sync_claim(namespace, name, self._volumes)
                    self._wake_all(namespace)
                elif kind == "volume":
                    for binder in self._claims:
                        binder.sync_volume(name)
            except Exception as exc:  # noqa: BLE001 - one object must not end the work on all others
                expected = isinstance(exc, DvcrError)
                _log.warning("will try again", kind=kind, namespace=namespace, name=name, error=str(exc),
                             exc_info=not expected)  # fmt: skip
                timer = threading.Timer(_RETRY_S, self._todo.put, [(kind, namespace, name)])
                timer.daemon = True
                timer.start()

    def _beat(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            try:
                self._heartbeat.beat()
            except MissingError:
                self._register_again()
            except ClusterError as exc:
                _log.warning("no heartbeat", error=exc.message)
            # What made a pod not fit may have changed without a word about the pod.
            for pod in self._pods.list():
                if not pod["spec"].get("nodeName"):
                    self._todo.put(("pod", pod["metadata"]["namespace"], pod["metadata"]["name"]))
            # A storage class or a folder may have come, or a folder gone.
            for claim in self._pvcs.list():
                volume = self._volumes.get(claim["spec"].get("volumeName", ""))
                if volume is None or any(binder.folder_changed(claim, volume) for binder in self._claims):
                    self._todo.put(("claim", claim["metadata"]["namespace"], claim["metadata"]["name"]))

    def _register_again(self) -> None:
        try:
            self._heartbeat.register()
        except ClusterError as exc:
            _log.warning("cannot register the node", error=exc.message)

    def _pod_changed(self, namespace: str, name: str) -> None:
        pod = self._pods.get(name, namespace)
        for uid, record in self._records().items():
            # Also a predecessor of the same name, whose deletion is told by nothing else.
            if (record["namespace"], record["name"]) == (namespace, name):
                self._wake(uid)
        # It may have let go of a claim that is to be deleted.
        self._release_claims(namespace)
        if pod is None:
            self._close_devices()
            return
        node = pod["spec"].get("nodeName")
        if not node:
            self._bind(pod)
        elif node == self._node.name:
            self._work_on(pod["metadata"]["uid"], namespace, name)

    def _release_claims(self, namespace: str) -> None:
        for claim in self._pvcs.list(namespace):
            if claim["metadata"].get("deletionTimestamp"):
                self._todo.put(("claim", namespace, claim["metadata"]["name"]))

    def _close_devices(self) -> None:
        """Take away the devices of volumes that no pod of this node uses any more."""
        used = {
            (self._volume_of(pod["metadata"]["namespace"], claim) or {}).get("metadata", {}).get("name")
            for pod in self._pods.list()
            if pod["spec"].get("nodeName") == self._node.name
            for claim in claims_of(pod)
        }
        for volume in self._devices.opened() - used:
            self._devices.close(volume)

    def _bind(self, pod: Object) -> None:
        metadata = pod["metadata"]
        if metadata.get("deletionTimestamp"):
            return
        node = self._cluster.get(NODE, self._node.name)
        if node is None:
            return
        reason = misfit(pod, node, lambda claim: self._volume_of(metadata["namespace"], claim))
        if reason:
            self._refuse(pod, reason)
            return
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {key: metadata[key] for key in ("name", "namespace", "uid")},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self._node.name},
        }
        try:
            self._cluster.create_in(POD, metadata["name"], metadata["namespace"], "binding", binding)
        except (ConflictError, MissingError):
            return  # another node was first, or the pod is gone
        message = f"Successfully assigned {metadata['namespace']}/{metadata['name']} to {self._node.name}"
        self._events.record(pod, "Scheduled", message)

    def _refuse(self, pod: Object, reason: str) -> None:
        self._events.record(pod, "FailedScheduling", f"node {self._node.name}: {reason}", warning=True)
        conditions = tell_misfit(pod, self._node.name, reason, timestamp())
        if conditions is None:
            return
        metadata = pod["metadata"]
        patch = {
            "metadata": {"resourceVersion": metadata["resourceVersion"]},
            "status": {"conditions": conditions},
        }
        # Another node took it or spoke first, or it is gone: what is left to tell is told at the next look.
        with suppress(ConflictError, MissingError):
            self._cluster.patch(POD, metadata["name"], patch, metadata["namespace"], "status")

    def _work_on(self, uid: str, namespace: str, name: str) -> None:
        def lookup() -> Object | None:
            pod = self._pods.get(name, namespace)
            return pod if pod is not None and pod["metadata"]["uid"] == uid else None

        with self._workers_lock:
            worker = self._workers.get(uid)
            if worker is None and not self._stopping.is_set():
                worker = PodWorker(self._node, uid, lookup, self._worker_done)
                self._workers[uid] = worker
                worker.start()
                return
        if worker is not None:
            worker.wake()

    def _worker_done(self, uid: str) -> None:
        with self._workers_lock:
            self._workers.pop(uid, None)

    def _wake(self, uid: str) -> None:
        with self._workers_lock:
            worker = self._workers.get(uid)
        if worker is not None:
            worker.wake()

    def _wake_all(self, namespace: str) -> None:
        for uid, record in self._records().items():
            if record["namespace"] == namespace:
                self._wake(uid)

    def _left_behind(self) -> dict[str, Object]:
        """The pods that an earlier agent had, with their addresses reserved."""
        records = self._records()
        for uid, record in records.items():
            self._node.addresses.reserve(record["ip"], uid)
        return records

    def _records(self) -> dict[str, Object]:
        records = {}
        for path in self._node.pods_dir.glob("*/pod.json"):
            try:
                records[path.parent.name] = json.loads(path.read_text())
            except FileNotFoundError:
                continue  # removed meanwhile
        return records

    def _users_of_claim(self, namespace: str, name: str) -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in self._pods.list(namespace)
            if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed") and name in claims_of(pod)
        ]

    def _volume_of(self, namespace: str, claim: str) -> Object | None:
        bound = self._pvcs.get(claim, namespace)
        return self._volumes.get(bound["spec"].get("volumeName", "")) if bound else None

    def _find_container(self, namespace: str, pod: str, container: str) -> Path | None:
        found = self._pods.get(pod, namespace)
        if found is None:
            return None
        folder = self._node.pods_dir / found["metadata"]["uid"] / container
        names = [c["name"] for c in [*found["spec"]["containers"], *(found["spec"].get("initContainers") or ())]]
        return folder if container in names and folder.is_dir() else None


def _lock(data_dir: Path) -> int:
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise ConfigError(
            f"another node agent uses {data_dir}; stop it or set node.data_dir to another folder"
        ) from exc
    return descriptor
