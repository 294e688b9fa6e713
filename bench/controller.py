"""The controller at scale, on a real kube-apiserver. Writes bench/results/controller.json.

Run it by `make bench-controller`, or `python -m bench.controller --objects 100` (nothing written). etcd,
kube-apiserver, kube-controller-manager (accounts and garbage collection only), Redis, the stubs of
tests/support/fleet.py and the controller share this machine. There are as many images as disks and machines: each disk
is made of its image, each machine has its disk.

- Ready: from the first object that is applied, by eight clients, until every image and disk is Ready and every machine
  is Running.
- Requests: what the API server's audit log has of the controller's user, without the renewals of its Lease.
- Restart: the controller is stopped and started with all objects there; until it has done what was asked of one machine
  right after its start.
- Quiet: a minute in which nobody changes anything.
- Churn: one of a hundred images, disks and machines is deleted and made again.
- kopf with handlers that do nothing sees as many objects of the same kinds, on the same API server, before all that.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import yaml

from bench.disk_copies import say
from bench.processes import CACHE, child, cpu_seconds
from bench.report import Row, machine, show, write
from controller.api.resource import DISK, IMAGE, MACHINE, POD, Resource
from controller.runtime.cluster import Cluster
from controller.runtime.informer import Informer
from dvcr.config import as_environment
from tests.support.fleet import spec_of
from tests.support.kubernetes import VERSION, KubernetesProcess
from tests.support.redis import RedisServer

KOPF = "1.45.2"
CONTROLLER, STUBS = "dvcr-controller", "stubs"
WRITES = ("create", "update", "patch", "delete", "deletecollection")
READY = {IMAGE: "Ready", DISK: "Ready", MACHINE: "Running"}
CLIENTS = 8
NAMESPACE = "default"
QUIET_S = 60
"""How long nothing is done, to count what the controller asks all the same."""
SETTLE_S = 20
"""For the requests after the last one that is waited for: a figure of all of them has no other end."""
WAIT_S = 1800
READY_ROW, RSS_ROW = "apply {:,} images, disks and machines, until all are ready", "peak RSS of the controller"
AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [CONTROLLER]}, {"level": "None"}],
}


class Audit:
    """What the controller asked of the API server, by verb and kind, since the last look."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read_bytes = 0

    def look(self) -> "Counter[tuple[str, str]]":
        """The requests since the last look."""
        found: Counter[tuple[str, str]] = Counter()
        with self._log.open("rb") as log:
            log.seek(self._read_bytes)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read_bytes += len(line)
                event = json.loads(line)
                what = event.get("objectRef") or {}
                kind = "/".join(filter(None, (what.get("resource"), what.get("subresource"))))
                found[event["verb"], kind] += 1
        return found


def writes(requests: "Counter[tuple[str, str]]") -> int:
    """Those that change something, but for the renewals of the Lease."""
    return sum(number for (verb, kind), number in requests.items() if verb in WRITES and kind != "leases")


def reads(requests: "Counter[tuple[str, str]]") -> int:
    """Those that get or list; watches go on for minutes."""
    return sum(number for (verb, kind), number in requests.items() if verb in ("get", "list") and kind != "leases")


class Bench:
    """The phases, on one control plane."""

    def __init__(self, kubernetes: KubernetesProcess, objects: int, folder: Path) -> None:
        self.objects = objects
        self._names = [f"bench-{number:04}" for number in range(objects)]
        self._cluster = Cluster.connect(kubernetes.kubeconfig)
        self._kubernetes = kubernetes
        self._folder = folder
        self._informers: dict[Resource, Informer] = {}
        self.audit = Audit(folder / "audit.log")

    def follow(self) -> None:
        """Know the objects' phases from now on."""
        self._informers = {resource: self._cluster.inform(resource) for resource in READY}

    def apply(self, resource: Resource, name: str) -> None:
        """Make an object."""
        metadata = {"name": name, "namespace": NAMESPACE}
        obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
        self._cluster.create(resource, {**obj, "spec": spec_of(resource, name)})

    def apply_all(self, names: list[str]) -> None:
        """Make an image, a disk and a machine of each name."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            for resource in READY:
                list(clients.map(lambda name, kind=resource: self.apply(kind, name), names))

    def delete_all(self, names: list[str]) -> None:
        """Delete them, and wait until they are gone."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            for resource in reversed(READY):
                list(clients.map(lambda name, kind=resource: self._cluster.delete(kind, name, NAMESPACE), names))
        wait(lambda: not any(self._informers[kind].get(name, NAMESPACE) for kind in READY for name in names))

    def ready(self) -> bool:
        """Whether all are as they are to be."""
        return all(
            sum((obj.get("status") or {}).get("phase") == phase for obj in self._informers[resource].list())
            == self.objects
            for resource, phase in READY.items()
        )

    def timed(self, act: Callable[[], object], until: Callable[[], bool]) -> float:
        """Seconds from the beginning of an act until something holds."""
        begin = time.perf_counter()
        act()
        wait(until)
        return time.perf_counter() - begin

    def labelled(self) -> float:
        """Seconds until a label that a machine is given now is its pod's."""
        name, label = self._names[-1], str(time.monotonic_ns())

        def carried() -> bool:
            pod = self._cluster.get(POD, f"vm-{name}", NAMESPACE)
            return pod is not None and (pod["metadata"].get("labels") or {}).get("asked") == label

        patch = {"metadata": {"labels": {"asked": label}}}
        return self.timed(lambda: self._cluster.patch(MACHINE, name, patch, NAMESPACE), carried)

    @contextmanager
    def controller(self, registry: str, broker: str) -> Iterator[int]:
        """The controller as its own process, once it reconciles; its process id."""
        kubeconfig = self._folder / "controller.kubeconfig"
        kubeconfig.write_text(self._kubernetes.configuration("controller-token"))
        settings = {
            "controller": {"kubeconfig": kubeconfig},
            "broker": {"url": broker},
            "client": {"url": registry},
            "log": {"style": "json", "level": "warning"},
        }
        with child("dvcr", "controller", environment=as_environment(settings)) as (_, pid):
            yield pid

    def run(self, registry: str, broker: str, stubs: int) -> list[Row]:
        """All phases but kopf's."""
        self.follow()
        rows = []
        with self.controller(registry, broker) as pid:
            self.audit.look()
            stub_cpu_s = cpu_seconds(stubs)
            ready_s = self.timed(lambda: self.apply_all(self._names), self.ready)
            cpu_s, stub_cpu_s = cpu_seconds(pid), cpu_seconds(stubs) - stub_cpu_s
            say(f"all ready after {ready_s:.1f} s; processor time: controller {cpu_s:.1f} s, stubs {stub_cpu_s:.1f} s")
            time.sleep(SETTLE_S)
            asked = self.audit.look()
            number = 3 * self.objects
            tell(asked, number)
            rows += [
                Row(READY_ROW.format(self.objects), "s", ready_s, 120),
                Row("API writes per object", "writes", writes(asked) / number, 12),
                Row("API reads per object", "reads", reads(asked) / number, None),
                Row("processor time of the controller until all are ready", "s", cpu_s, None),
            ]
            time.sleep(QUIET_S)
            quiet = self.audit.look()
            tell(quiet, 1)
            rows.append(Row(f"writes in {QUIET_S} quiet seconds", "writes", writes(quiet), 0))
            changed = self._names[:: min(100, self.objects)]

            def churn() -> None:
                self.delete_all(changed)
                self.apply_all(changed)

            churn_s = self.timed(churn, self.ready)
            time.sleep(SETTLE_S)
            asked = self.audit.look()
            number = 3 * len(changed)
            tell(asked, number)
            rows += [
                Row("1 % deleted and made again, until ready", "s", churn_s, None),
                Row("API writes per object that is deleted and made again", "writes", writes(asked) / number, None),
                Row("one change in between, until done", "s", self.labelled(), None),
                Row(RSS_ROW, "MB", peak_rss(pid) / 1e6, 300),
            ]
        self.audit.look()
        begin = time.perf_counter()
        with self.controller(registry, broker) as pid:
            started_s = time.perf_counter() - begin
            self.labelled()
            restart_s = time.perf_counter() - begin
            time.sleep(SETTLE_S)
            asked = self.audit.look()
            tell(asked, 1)
            begin_cpu_s = cpu_seconds(pid)
            time.sleep(QUIET_S)
            rows += [
                Row("restart until a change is done", "s", restart_s, None),
                Row("restart: API writes", "writes", writes(asked), None),
                Row("restart: peak RSS", "MB", peak_rss(pid) / 1e6, 300),
                Row(f"processor time of {QUIET_S} quiet seconds", "s", cpu_seconds(pid) - begin_cpu_s, None),
            ]
            say(f"restarted in {started_s:.1f} s, all done after {restart_s:.1f} s")
        return rows

    def beside(self) -> tuple[float, float]:
        """kopf on as many objects, which are removed again: seconds until it has seen all, and its peak RSS in MB."""
        self.follow()
        kubeconfig = self._folder / "kopf.kubeconfig"
        kubeconfig.write_text(self._kubernetes.configuration("stubs-token"))
        command = [str(kopf() / "kopf"), "run", "--quiet", "-n", NAMESPACE, "bench/noop_operator.py"]
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "OBJECTS": str(3 * self.objects)}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        try:
            begin = time.perf_counter()
            self.apply_all(self._names)
            assert process.stdout.readline().strip() == "all seen", "kopf ended"
            took_s = time.perf_counter() - begin
            rss = peak_rss(process.pid) / 1e6
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()
        self.delete_all(self._names)
        for informer in self._informers.values():
            informer.stop()
        say(f"kopf has seen all after {took_s:.1f} s, peak RSS {rss:.0f} MB")
        return took_s, rss


def tell(requests: "Counter[tuple[str, str]]", objects: int) -> None:
    """Print the requests for each object, most frequent first."""
    shares = [f"{verb} {kind} {number / objects:.2f}" for (verb, kind), number in requests.most_common(24)]
    say("  requests: " + ", ".join(shares))


def wait(until: Callable[[], bool]) -> None:
    """Wait for something to hold."""
    deadline = time.monotonic() + WAIT_S
    while not until():
        if time.monotonic() > deadline:
            raise SystemExit(f"it did not come about in {WAIT_S} s")
        time.sleep(0.1)


def peak_rss(pid: int) -> int:
    """The most memory that the process has had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def kopf() -> Path:
    """The folder of kopf's command, installed once."""
    home = CACHE / f"kopf-{KOPF}"
    if not (home / "bin/kopf").exists():
        venv.create(home, with_pip=True)
        subprocess.run([home / "bin/pip", "install", "--quiet", f"kopf=={KOPF}"], check=True)
    return home.resolve() / "bin"


def main() -> None:
    """Run all phases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1000, help="of each kind (default: %(default)s)")
    parser.add_argument("--no-peer", action="store_true", help="without kopf; nothing is written")
    arguments = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="controller-", dir=CACHE) as name:
        folder = Path(name).resolve()
        policy = folder / "audit.yaml"
        policy.write_text(yaml.safe_dump(AUDIT))
        redis, kubernetes = RedisServer(folder), control_plane(folder, policy)
        redis.start()
        kubernetes.start()
        try:
            bench = Bench(kubernetes, arguments.objects, folder)
            beside = None if arguments.no_peer else bench.beside()
            stubs = folder / "stubs.kubeconfig"
            stubs.write_text(kubernetes.configuration("stubs-token"))
            with child(sys.executable, "-m", "tests.support.fleet", str(stubs), redis.url, NAMESPACE) as (
                registry,
                pid,
            ):
                rows = bench.run(registry, redis.url, pid)
        finally:
            kubernetes.stop()
            redis.stop()
    told = machine(["redis-server", "--version"]) + f"; Kubernetes {VERSION}; kopf {KOPF}"
    if beside is None or arguments.objects != 1000:
        show("controller", rows, told)
        return
    figures = {row.row: row.ours for row in rows}
    ready_s = figures[READY_ROW.format(arguments.objects)]
    rows += [
        Row("all ready, beside kopf that does nothing", "s", ready_s, None, {"kopf": beside[0]}),
        Row("peak RSS, beside kopf that does nothing", "MB", figures[RSS_ROW], None, {"kopf": beside[1]}),
    ]
    write("controller", rows, told)


def control_plane(folder: Path, policy: Path) -> KubernetesProcess:
    """With an audit log of what the controller asks, and no controllers that would do the stubs' work."""
    root = folder / "kubernetes"
    root.mkdir()
    return KubernetesProcess(
        root,
        controllers="serviceaccount-controller,garbage-collector-controller",
        options=(f"--audit-policy-file={policy}", f"--audit-log-path={folder / 'audit.log'}"),
        users={"controller-token": CONTROLLER, "stubs-token": STUBS},
    )


if __name__ == "__main__":
    main()
