"""One pod of this node, from its binding to its removal.

    prepare (address, volumes) → init containers, one after the other → containers → ended, or deleted

A worker looks at the pod as it should be (the API) and as it is (the disk and its processes), takes the next step,
writes the status, and sleeps until something changes. All that it needs after a restart of the agent is on disk.
"""

import json
import os
import select
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from controller.api.pod_claims import ADDITIONAL_CLAIMS_ANNOTATION
from controller.api.resource import ADDRESS_ANNOTATION, CONFIG_MAP, POD, SECRET
from controller.local.node.additional import AdditionalMounts
from controller.local.node.addresses import AddressPool
from controller.local.node.cgroups import CpuGroups
from controller.local.node.clock import parse_timestamp, timestamp
from controller.local.node.containers import Container
from controller.local.node.environment import command_line, environment, termination_log
from controller.local.node.events import NodeEvents
from controller.local.node.probes import ProbeTarget
from controller.local.node.process import Run
from controller.local.node.readiness import Readiness
from controller.local.node.restarts import Backoff
from controller.local.node.status import pod_status, without_nulls
from controller.local.node.volumes import PodVolumes, contents, mount, mounts_of
from controller.runtime.cluster import Cluster
from controller.runtime.errors import ConflictError, MissingError
from dvcr.errors import DvcrError, ResourceError

Object = dict[str, Any]

LOG_MAX_BYTES = 10 * 2**20
HOST_IP = "127.0.0.1"
_RETRY_S = 2.0
_KILL_RETRY_S = 0.5
_REFRESH_S = 60.0
# The shim reports a start within some milliseconds, which nothing else tells.
_START_S = 0.05
_SHUTDOWN = ("Terminated", "Pod was terminated in response to the shutdown of its node.")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Node:
    """What the pods of a node share."""

    name: str
    data_dir: Path
    cluster: Cluster
    addresses: AddressPool
    events: NodeEvents
    backoff: Backoff
    cpu: CpuGroups
    shared_volumes_dir: Path | None = None
    """Folder of volumes that all nodes see, if there is one."""
    cache_dir: Path | None = None
    """The cache that the launchers of this node share; None: each goes by its pod."""

    @property
    def pods_dir(self) -> Path:
        return self.data_dir / "pods"

    @property
    def volumes_dir(self) -> Path:
        return self.data_dir / "volumes"

    @property
    def volume_folders(self) -> tuple[Path, ...]:
        """The folders of persistent volumes: this node's, and the one that all see."""
        return (self.volumes_dir, *((self.shared_volumes_dir,) if self.shared_volumes_dir else ()))


class PodWorker:
    """Runs one pod, in a thread of its own. `lookup` gives the pod as the API has it, or None once it is gone."""

    def __init__(
        self, node: Node, uid: str, lookup: Callable[[], Object | None], on_done: Callable[[str], None]
    ) -> None:
        self.uid = uid
        self._node = node
        self._lookup = lookup
        self._on_done = on_done
        self._folder = node.pods_dir / uid
        self._pod: Object | None = None
        self._ip = ""
        self._containers: dict[str, Container] = {}
        self._readiness = Readiness()
        self._volumes = PodVolumes(node.cluster, self._folder, node.volume_folders)
        self._additional = AdditionalMounts(self._volumes, self._folder)
        self._unmounted: list[str] | None = None
        self._stop_by = float("inf")
        self._asked: set[Path] = set()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name=f"pod-{uid[:8]}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Have the worker look at its pod again."""
        with suppress(OSError):  # the worker is done
            os.eventfd_write(self._wake, 1)

    def shut_down(self) -> None:
        """Stop the containers, each within the pod's grace period, and end the worker; `join` waits for it."""
        pod = self._pod or self._lookup()
        grace_s = float(pod["spec"].get("terminationGracePeriodSeconds", 30)) if pod else 0
        self._stop_by = time.time() + grace_s
        self.wake()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        wait_s: float | None = 0
        while wait_s is not None:
            self._sleep(wait_s)
            try:
                wait_s = self._sync()
            except DvcrError as exc:
                _log.warning("pod", uid=self.uid, error=exc.message)
                # The next agent tells of it, from what is on disk.
                wait_s = None if self._is_shut_down() else _RETRY_S
            except Exception:  # noqa: BLE001 - logged with its trace
                # A bug met by one pod must not end the node; it is tried again, and seen.
                _log.exception("pod failed", uid=self.uid)
                wait_s = 5 * _RETRY_S
        self._readiness.close()
        self._on_done(self.uid)

    def _sleep(self, timeout_s: float) -> None:
        """Until the time is over, a process ends, or somebody wakes the worker."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        ends = [c.process.wait_fd() for c in self._containers.values() if c.process and c.was_alive]
        for descriptor in ends:
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
            else:
                # It has ended since it was looked at, and nothing else would tell.
                timeout_s = min(timeout_s, _START_S)
        poll.poll(timeout_s * 1000)
        for descriptor in ends:
            if descriptor is not None:
                os.close(descriptor)
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _sync(self) -> float | None:
        """Take the next step; returns for how long nothing is to be done, None when there is nothing left to do."""
        pod = self._lookup()
        if pod is None:
            # Deleted by force, or while this agent was away: nobody waits for its processes to be polite.
            return self._remove(stop_by=0)
        self._pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            if self._has_begun():
                self._adopt(pod)
            stop_by = parse_timestamp(pod["metadata"]["deletionTimestamp"]).timestamp()
            return self._remove(min(stop_by, self._stop_by))
        if self._shuts_down() and not self._has_begun():
            return None
        self._adopt(pod)
        if self._shuts_down():
            return self._end(pod)
        if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return self._stop(self._containers.values(), stop_by=0) or _REFRESH_S
        wait_s = self._advance(pod)
        self._mount_additional(pod)
        self._report(pod)
        return min(wait_s, _RETRY_S) if self._unmounted else wait_s

    def _shuts_down(self) -> bool:
        return self._stop_by != float("inf")

    def _is_shut_down(self) -> bool:
        return self._shuts_down() and not any(container.alive for container in self._containers.values())

    def _has_begun(self) -> bool:
        """Whether the pod has its address; before that it has nothing to be stopped."""
        return (self._folder / "pod.json").exists()

    def _adopt(self, pod: Object) -> None:
        """Learn what is on disk, and make what is not."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        record = self._folder / "pod.json"
        if not self._ip:
            if record.exists():
                self._ip = json.loads(record.read_text())["ip"]
            else:
                self._ip = self._take_address(pod)
                metadata = {key: pod["metadata"][key] for key in ("namespace", "name", "uid")}
                new = record.with_suffix(".new")
                new.write_text(json.dumps(metadata | {"ip": self._ip}))
                new.replace(record)
        for spec in [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]:
            if spec["name"] not in self._containers:
                folder = self._folder / spec["name"]
                self._containers[spec["name"]] = Container(folder, spec, self._node.backoff)

    def _take_address(self, pod: Object) -> str:
        leased = (pod["metadata"].get("annotations") or {}).get(ADDRESS_ANNOTATION)
        if not leased:
            return self._node.addresses.take(self.uid)
        try:
            self._node.addresses.take_leased(self.uid, leased)
        except ResourceError as exc:
            self._node.events.record(pod, "FailedAddress", exc.message, warning=True)
            raise
        return str(leased)

    def _advance(self, pod: Object) -> float:
        policy = pod["spec"].get("restartPolicy", "Always")
        try:
            volumes = self._volumes.prepare(pod)
        except DvcrError as exc:
            waiting = [c for c in self._containers.values() if c.process is None]
            for container in waiting:
                container.waiting = ("ContainerCreating", exc.message)
            if waiting:
                self._node.events.record(pod, "FailedMount", exc.message, warning=True)
            # Containers that run already go on with the files that they have.
            return _RETRY_S
        for spec in pod["spec"].get("initContainers") or ():
            container = self._containers[spec["name"]]
            end = container.ended()
            if end is not None and end.exit_code == 0:
                continue
            if container.alive or (end is not None and policy == "Never"):
                return _REFRESH_S
            # An init container that ended well is never run again, whatever the policy.
            return self._keep_running(pod, container, volumes, "OnFailure")
        return min(
            self._keep_running(pod, self._containers[spec["name"]], volumes, policy)
            for spec in pod["spec"]["containers"]
        )

    def _mount_additional(self, pod: Object) -> None:
        roots = {name: container.root for name, container in self._containers.items() if container.alive}
        missing = self._additional.sync(pod, roots)
        named = ADDITIONAL_CLAIMS_ANNOTATION in (pod["metadata"].get("annotations") or {})
        self._unmounted = missing if named else None
        if missing:
            self._node.events.record(pod, "FailedMount", "; ".join(missing), warning=True)

    def _keep_running(self, pod: Object, container: Container, volumes: Mapping[str, Path], policy: str) -> float:
        if container.alive:
            self._probe(pod, container)
            started = container.process is not None and container.process.started_at
            return _REFRESH_S if started else _START_S
        if container.finished(policy):
            return _REFRESH_S
        wait_s = container.start_in_s()
        if wait_s:
            if not container.waiting[0]:
                name = container.name
                self._node.events.record(pod, "BackOff", f"Back-off restarting failed container {name}", warning=True)
            return wait_s
        try:
            container.start(lambda: self._run_of(pod, container, volumes))
        except DvcrError as exc:
            config = isinstance(exc, ResourceError)
            container.waiting = ("CreateContainerConfigError" if config else "CreateContainerError", exc.message)
            self._node.events.record(pod, "Failed", exc.message, warning=True)
            return _RETRY_S
        self._node.events.record(pod, "Started", f"Started container {container.name}")
        return _START_S

    def _run_of(self, pod: Object, container: Container, volumes: Mapping[str, Path]) -> Run:
        mount(container.root, mounts_of(container.spec), volumes)
        root = container.root.absolute()
        env = self._environment_of(pod, container)
        cwd = root / str(container.spec.get("workingDir") or "").lstrip("/")
        cwd.mkdir(parents=True, exist_ok=True)
        message = termination_log(container.spec, root)
        message.parent.mkdir(parents=True, exist_ok=True)
        return Run(command_line(container.spec, env), env, str(cwd), "", LOG_MAX_BYTES, str(message),
                   cgroup=self._node.cpu.group_of(pod))  # fmt: skip

    def _environment_of(self, pod: Object, container: Container) -> dict[str, str]:
        root, cache_dir = container.root.absolute(), self._node.cache_dir
        return environment(pod, container.spec, root=root, pod_ip=self._ip, lookup=self._entries, cache_dir=cache_dir)

    def _entries(self, kind: str, name: str) -> Mapping[str, bytes] | None:
        assert self._pod is not None
        namespace = self._pod["metadata"]["namespace"]
        obj = self._node.cluster.get(SECRET if kind == "Secret" else CONFIG_MAP, name, namespace)
        return None if obj is None else contents({"kind": kind} | obj)

    def _probe(self, pod: Object, container: Container) -> None:
        def target() -> ProbeTarget:
            env = self._environment_of(pod, container)
            return ProbeTarget(self._ip, container.spec.get("ports") or (), env, container.root.absolute())

        def changed(failure: str) -> None:
            if failure:
                self._node.events.record(pod, "Unhealthy", f"Readiness probe failed: {failure}", warning=True)
            self.wake()

        self._readiness.probe(pod, container, target, changed)

    def _report(self, pod: Object, failure: tuple[str, str] | None = None) -> None:
        """Write the status if it differs from the one that the API has."""
        policy = pod["spec"].get("restartPolicy", "Always")
        if failure:
            policy = "Never"
        inits = {spec["name"] for spec in pod["spec"].get("initContainers") or ()}
        status = pod_status(
            pod,
            [c.view("OnFailure" if policy != "Never" else "Never", ready=False)
             for name, c in self._containers.items() if name in inits],
            [c.view(policy, ready=self._readiness.of(c)) for name, c in self._containers.items() if name not in inits],
            pod_ip=self._ip,
            host_ip=HOST_IP,
            now=timestamp(),
            failure=failure,
            unmounted=self._unmounted,
        )  # fmt: skip
        old = without_nulls(pod.get("status") or {})
        changes = {key: value for key, value in status.items() if old.get(key) != value}
        if not changes:
            return
        metadata = pod["metadata"]
        patch = {"metadata": {"uid": metadata["uid"]}, "status": changes}
        # A ConflictError here is another pod of the same name: this one is gone, as with MissingError.
        with suppress(MissingError, ConflictError):
            self._node.cluster.patch(POD, metadata["name"], patch, metadata["namespace"], "status")

    def _stop(self, containers: Iterable[Container], stop_by: float) -> float:
        """Bring processes to their end; returns 0 when all are gone, else when to look again."""
        alive = [c for c in containers if c.alive]
        left_s = stop_by - time.time()
        for container in alive:
            self._readiness.stop(container)
            if left_s <= 0:
                assert container.process is not None
                container.process.kill()
            elif container.process is not None and container.process.folder not in self._asked:
                container.process.terminate()
                self._asked.add(container.process.folder)
        if not alive:
            return 0
        return min(_REFRESH_S, left_s) if left_s > 0 else _KILL_RETRY_S

    def _end(self, pod: Object) -> float | None:
        """The node shuts down."""
        wait_s = self._stop(self._containers.values(), self._stop_by)
        if wait_s:
            return wait_s
        final = pod["spec"].get("restartPolicy", "Always") == "Never"
        if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            # The others are started again with the node.
            self._report(pod, _SHUTDOWN if final else None)
        return None

    def _remove(self, stop_by: float) -> float | None:
        """Stop the processes, then forget the pod here and in the API."""
        if not self._containers and self._folder.is_dir():
            for folder in self._folder.iterdir():
                if folder.is_dir() and folder.name != "volumes":
                    self._containers[folder.name] = Container(folder, {"name": folder.name}, self._node.backoff)
        wait_s = self._stop(self._containers.values(), stop_by)
        if wait_s:
            return wait_s
        # Nobody listens there any more, and a successor of the pod may be waiting for its leased address.
        self._node.addresses.release(self.uid)
        pod = self._lookup()
        if pod is not None:
            if self._containers:
                self._report(pod)
            metadata = pod["metadata"]
            self._node.cluster.delete(POD, metadata["name"], metadata["namespace"], grace_period_s=0, uid=self.uid)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._node.cpu.remove(self.uid)
        return None
