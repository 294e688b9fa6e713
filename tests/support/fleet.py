"""Stubs of all that a controller works with, in one process: a node, an import worker, a registry, machines' launchers.

They answer at once, so that what is seen is the controller: claims are bound, pods run and are ready, imports succeed,
every launcher tells of a running guest. As a process it prints the registry's address when all of it is there:

    python -m tests.support.fleet KUBECONFIG BROKER_URL NAMESPACE
"""

import asyncio
import itertools
import ssl
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web
from pydantic import SecretStr

from controller.api.pod_claims import volume_claims
from controller.api.resource import DISK, IMAGE, POD, PVC, Resource
from controller.certificates import KeyPair
from controller.launcher.spec import (
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    STATUS_PORT,
    DiskStatus,
    MachineState,
    MachineStatus,
)
from controller.machines.authority import MachineAuthority
from controller.runtime.cluster import Cluster
from controller.runtime.controller import Controller, Reconciler
from controller.runtime.index import Key, Object
from controller.runtime.informer import Informer
from controller.runtime.termination import termination
from dvcr.artifact.image import DiskImage, ImageSource
from dvcr.artifact.manifest import DiskManifest, config_json
from dvcr.config import BrokerSettings
from dvcr.descriptor import IMAGE_MANIFEST
from dvcr.digest import Digest
from dvcr.jobs.board import JobBoard
from dvcr.jobs.job import JobProgress, JobState
from dvcr.jobs.redis import RedisJobBoard

NODE = "stub"
_MIB = 2**20
_IDLE_S = 0.05
_SOURCE = ImageSource("qcow2", _MIB, {"sha256": "0" * 64}, "https://example.com/disk.qcow2")
_IMAGE = DiskImage(64 * _MIB, 4 * _MIB, (), False, _SOURCE, datetime(2026, 1, 1, tzinfo=UTC))
_CONFIG = config_json(_IMAGE)
_MANIFEST = DiskManifest.of(_IMAGE, _CONFIG)


def spec_of(resource: Resource, name: str) -> Object:
    """What is applied under that name: an image, a disk that is made of it, or a machine that has the disk."""
    if resource == IMAGE:
        return {"dataSource": {"type": "HTTP", "http": {"url": f"http://images.example.com/{name}.qcow2"}}}
    if resource == DISK:
        source = {"type": "VirtualMachineImage", "virtualMachineImage": {"name": name}}
        return {"persistentVolumeClaim": {"size": "64Mi"}, "dataSource": source}
    device = {"type": "VirtualMachineDisk", "virtualMachineDisk": {"name": name}}
    return {"cpu": {"cores": 1}, "memory": {"size": "128Mi"}, "blockDevices": [device]}


class Claims:
    """Binds every claim."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def reconcile(self, key: Key) -> float | None:
        claim = self._cluster.get(PVC, key[1], key[0])
        if claim is not None and (claim.get("status") or {}).get("phase") != "Bound":
            status = {"phase": "Bound", "capacity": claim["spec"]["resources"]["requests"]}
            self._cluster.patch(PVC, key[1], {"status": status}, key[0], "status")
        return None


class Pods:
    """Has every pod run and be ready, each at an address of its own; one that is deleted is gone at once."""

    def __init__(self, cluster: Cluster, launchers: "Launchers", network: str) -> None:
        self._cluster = cluster
        self._launchers = launchers
        self._network = network
        self._numbers = itertools.count()

    def reconcile(self, key: Key) -> float | None:
        pod = self._cluster.get(POD, key[1], key[0])
        if pod is None:
            return None
        if "deletionTimestamp" in pod["metadata"]:
            self._cluster.delete(POD, key[1], key[0], grace_period_s=0, uid=pod["metadata"]["uid"])
            return None
        if "nodeName" not in pod["spec"]:
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": key[1]}, "target": target}
            self._cluster.create_in(POD, key[1], key[0], "binding", binding)
        if (pod.get("status") or {}).get("phase") != "Running":
            # An address that somebody else listens on: the next pass takes another.
            high, low = divmod(next(self._numbers), 250)
            address = f"{self._network}.{high}.{low + 1}"
            disks = tuple(DiskStatus(name=claim, size_bytes=64 * _MIB) for claim in volume_claims(pod))
            self._launchers.listen(address, MachineStatus(state=MachineState.RUNNING, accelerator="tcg", disks=disks))
            status = {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]}
            self._cluster.patch(POD, key[1], {"status": status}, key[0], "status")
        return None


def registry(imported: set[str]) -> ThreadingHTTPServer:
    """A server that knows the images which were imported, all with the same bytes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            repository, _, rest = self.path.removeprefix("/v2/").rpartition("/manifests/")
            if f"{repository}:{rest}" in imported:
                self._answer(200, IMAGE_MANIFEST, _MANIFEST.to_json())
            elif self.path.endswith(f"/blobs/{_MANIFEST.config.digest}"):
                self._answer(200, "application/octet-stream", _CONFIG)
            else:
                self._answer(404, "application/json", b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')

        do_HEAD = do_GET  # noqa: N815 (as http.server names it)

        def do_DELETE(self) -> None:
            repository = self.path.removeprefix("/v2/").partition("/manifests/")[0]
            imported.difference_update([name for name in imported if name.startswith(f"{repository}:")])
            self._answer(202, "application/json", b"")

        def _answer(self, status: int, media_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", str(Digest.of(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: there are thousands."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Launchers:
    """Answer as the launcher of whatever machine is asked for, with mutual TLS as they do."""

    def __init__(self, authority: MachineAuthority) -> None:
        self._authority = authority
        self._told: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def listen(self, address: str, status: MachineStatus) -> None:
        """Have one there that tells this."""
        self._told[address] = status.model_dump_json()
        site = web.TCPSite(self._runner, address, STATUS_PORT, ssl_context=self._context)
        asyncio.run_coroutine_threadsafe(site.start(), self._loop).result()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _start(self) -> None:
        files = await asyncio.to_thread(self._authority.issue, "*")  # a wildcard stands for all machines
        self._context = KeyPair(files[CERTIFICATE_FILE], files[KEY_FILE]).server_context()
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_verify_locations(cadata=files[AUTHORITY_FILE].decode())
        app = web.Application()
        app.router.add_get("/status", self._show)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()

    async def _show(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        return web.json_response(text=self._told[request.transport.get_extra_info("sockname")[0]])


class Fleet:
    """All of them, while it is entered; pods are at addresses of `network`, two numbers of 127.0.0.0/8."""

    def __init__(self, cluster: Cluster, board: JobBoard, namespace: str, network: str = "127.200") -> None:
        self.taken: Counter[str] = Counter()
        """How often each job was given out."""
        self._board = board
        self._imported: set[str] = set()
        self._stopping = threading.Event()
        self._worker = threading.Thread(target=self._work)
        self._registry = registry(self._imported)
        self._launchers = Launchers(MachineAuthority(cluster, namespace))
        self._informers: list[Informer] = []
        self._cluster = cluster
        self._reconcilers: dict[Resource, Reconciler] = {
            PVC: Claims(cluster),
            POD: Pods(cluster, self._launchers, network),
        }

    @property
    def registry_url(self) -> str:
        return f"http://127.0.0.1:{self._registry.server_address[1]}"

    def __enter__(self) -> Self:
        self._worker.start()
        self._launchers.start()
        for resource, reconciler in self._reconcilers.items():
            controller = Controller(resource.kind, reconciler, workers=2)
            controller.start()
            self._informers.append(self._cluster.inform(resource, controller.enqueue))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopping.set()
        self._worker.join()
        for informer in self._informers:
            informer.stop()
        self._launchers.stop()
        self._registry.shutdown()
        self._registry.server_close()

    def _work(self) -> None:
        """Take every import, and say that it succeeded."""
        while not self._stopping.is_set():
            taken = self._board.take("fleet", 60)
            if taken is None:
                time.sleep(_IDLE_S)
                continue
            self.taken[taken.job.id] += 1
            now = datetime.now(UTC)
            self._imported.add(f"{taken.job.repository}:{taken.job.tag}")
            done = JobProgress(state=JobState.SUCCEEDED, percent=100, started_at=now, finished_at=now)
            self._board.finish(taken.job.id, "fleet", done)


def main(kubeconfig: str, broker_url: str, namespace: str) -> None:
    """Run until SIGTERM."""
    stopping = termination()
    board = RedisJobBoard.from_settings(BrokerSettings(url=SecretStr(broker_url)))
    with Fleet(Cluster.connect(Path(kubeconfig)), board, namespace) as fleet:
        print(fleet.registry_url, flush=True)
        stopping.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
