"""`dvcr controller`."""

import socket
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from controller.runtime.lease import LeaderLease

LEASE_TIMEOUT_S = 4
"""For each request about the Lease: several fit into the time that a leader has for a renewal."""
SERVICE_TIMEOUT_S = 8
"""For each request of what the API server calls here: it waits for 10 s itself, and so does the end of the process."""


def register(app: typer.Typer) -> None:
    """Add the command to `dvcr`."""
    app.command("controller")(controller)


def controller(
    context: typer.Context,
    leader_elect: Annotated[
        bool, typer.Option(help="Work only while holding the Lease dvcr-controller; for more than one replica.")
    ] = True,
) -> None:
    """Turn resources into images, disks and machines, until SIGTERM.

    Example: `dvcr controller --no-leader-elect`
    """
    from controller.assembly import build_loops
    from controller.consoles.site import MachineApiSite
    from controller.cpumodels.default import insist_on_default
    from controller.images.recent import RecentImages
    from controller.images.registry import RemoteImageRegistry
    from controller.machines.authority import MachineAuthority
    from controller.machines.launcher_status import HttpLauncherStatus
    from controller.runtime.cached import CachedCluster
    from controller.runtime.cluster import Cluster
    from controller.runtime.leadership import lead
    from controller.runtime.metrics import LEADER
    from controller.runtime.open_files import allow_many
    from controller.runtime.process import ControllerProcess
    from controller.runtime.termination import termination
    from controller.service import Service
    from controller.webhooks.site import WebhookSite
    from dvcr.config import Settings
    from dvcr.jobs.redis import RedisJobBoard
    from dvcr.monitoring import Monitoring

    settings: Settings = context.obj
    cluster = Cluster.connect(settings.controller.kubeconfig)
    board = RedisJobBoard.from_settings(settings.broker)
    called = Cluster.connect(settings.controller.kubeconfig, timeout_s=SERVICE_TIMEOUT_S)
    authority = MachineAuthority(called, settings.controller.namespace)
    launchers = HttpLauncherStatus(authority, allow_many() // 2)
    lease = _lease(settings.controller.kubeconfig, settings.controller.namespace) if leader_elect else None
    cached = CachedCluster(cluster, (lambda: lease.held) if lease is not None else (lambda: True))
    registry = RecentImages(RemoteImageRegistry(settings.client))
    loops = build_loops(cached, board, registry, launchers, settings)
    process = ControllerProcess(
        cached, loops, workers=settings.controller.workers, resync_s=settings.controller.resync_s
    )
    stopping = termination()

    def ready() -> None:
        LEADER.set(1)
        typer.echo(f"reconciling {cluster.server}")
        insist_on_default(cluster, stopping)

    with ExitStack() as stack:
        stack.enter_context(Service(MachineApiSite(called, authority, settings.controller)))
        webhooks: Service | None = None
        if settings.controller.webhooks.enabled:
            webhooks = stack.enter_context(Service(WebhookSite(called, authority, settings.controller)))
        # The API server asks whoever is ready. The machine API has no say in it: some clusters cannot have that.
        is_ready = webhooks.listening.is_set if webhooks is not None else lambda: True
        stack.enter_context(Monitoring(settings.monitoring, is_ready))
        if lease is not None:
            lead(lease, process, stopping, ready)
        else:
            process.run(stopping, ready)


def _lease(kubeconfig: Path | None, namespace: str) -> "LeaderLease":
    from controller.runtime.cluster import Cluster
    from controller.runtime.lease import LeaderLease

    identity = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    return LeaderLease(Cluster.connect(kubeconfig, timeout_s=LEASE_TIMEOUT_S), identity, namespace=namespace)
