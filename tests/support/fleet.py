"""Stubs for bench/controller.py, all in one process: a node, an import worker, a registry and all machines' launchers.

    python -m tests.support.fleet KUBECONFIG BROKER_URL NAMESPACE

They answer at once, so that what is measured is the controller: claims are bound, pods run and are ready, imports
succeed, every launcher tells of a running guest. Prints the registry's address when all of it is there.
"""

import asyncio
import itertools
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from aiohttp import web
from pydantic import SecretStr

from controller.api.pod_claims import volume_claims
from controller.api.resource import POD, PVC
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
from controller.runtime.controller import Controller
from controller.runtime.index import Key
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

    def __init__(self, cluster: Cluster) -> None:
        self.told: dict[str, str] = {}
        """What the launcher at each address answers."""
        self._cluster = cluster
        self._numbers = itertools.count()

    def reconcile(self, key: Key) -> float | None:
        pod = self._cluster.get(POD, key[1], key[0])
        if pod is None:
            return None
        if "deletionTimestamp" in pod["metadata"]:
            self._cluster.delete(POD, key[1], key[0], grace_period_s=0, uid=pod["metadata"]["uid"])
        elif "nodeName" not in pod["spec"]:
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": key[1]}, "target": target}
            self._cluster.create_in(POD, key[1], key[0], "binding", binding)
            high, low = divmod(next(self._numbers), 250)
            address = f"127.64.{high}.{low + 1}"
            disks = tuple(DiskStatus(name=claim, size_bytes=64 * _MIB) for claim in volume_claims(pod))
            running = MachineStatus(state=MachineState.RUNNING, accelerator="tcg", disks=disks)
            self.told[address] = running.model_dump_json()
            status = {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]}
            self._cluster.patch(POD, key[1], {"status": status}, key[0], "status")
        return None


def work(board: JobBoard, imported: set[str], stopping: threading.Event) -> None:
    """Take every import, and say that it succeeded."""
    while not stopping.is_set():
        taken = board.take("fleet", 60)
        if taken is None:
            time.sleep(_IDLE_S)
            continue
        now = datetime.now(UTC)
        imported.add(f"{taken.job.repository}:{taken.job.tag}")
        done = JobProgress(state=JobState.SUCCEEDED, percent=100, started_at=now, finished_at=now)
        board.finish(taken.job.id, "fleet", done)


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


async def launch(
    authority: MachineAuthority, told: Mapping[str, str], ready: Callable[[], None], stopping: threading.Event
) -> None:
    """Answer as the launcher of whatever machine is asked for, with mutual TLS as they do."""
    files = authority.issue("*")  # a wildcard stands for all machines
    context = KeyPair(files[CERTIFICATE_FILE], files[KEY_FILE]).server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=files[AUTHORITY_FILE].decode())

    async def show(request: web.Request) -> web.Response:
        return web.json_response(text=told[request.get_extra_info("sockname")[0]])

    app = web.Application()
    app.router.add_get("/status", show)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", STATUS_PORT, ssl_context=context).start()
    ready()
    await asyncio.to_thread(stopping.wait)
    await runner.cleanup()


def main(kubeconfig: str, broker_url: str, namespace: str) -> None:
    """Run until SIGTERM."""
    stopping = termination()
    cluster = Cluster.connect(Path(kubeconfig))
    board = RedisJobBoard.from_settings(BrokerSettings(url=SecretStr(broker_url)))
    imported: set[str] = set()
    threading.Thread(target=work, args=(board, imported, stopping), daemon=True).start()
    pods = Pods(cluster)
    for resource, reconciler in ((PVC, Claims(cluster)), (POD, pods)):
        controller = Controller(resource.kind, reconciler, workers=2)
        controller.start()
        cluster.inform(resource, controller.enqueue)
    server = registry(imported)
    port = server.server_address[1]
    authority = MachineAuthority(cluster, namespace)
    asyncio.run(launch(authority, pods.told, lambda: print(f"http://127.0.0.1:{port}", flush=True), stopping))


if __name__ == "__main__":
    main(*sys.argv[1:])
