"""The CPU model of machines that name none."""

import threading

import structlog

from controller.api.machine import Cpu
from controller.api.resource import CPU_MODEL
from controller.runtime.backoff import Backoff
from controller.runtime.errors import AlreadyExistsError, ClusterError
from controller.runtime.port import ClusterPort

DEFAULT_NAME = str(Cpu.model_fields["model_name"].default)
DEFAULT_MODEL = "Nehalem"
"""What any x86 server processor of the last fifteen years has: x86-64-v2, which present distributions are built for."""


_log = structlog.get_logger(__name__)


def insist_on_default(cluster: ClusterPort, stopping: threading.Event) -> None:
    """As `ensure_default`, again and again where the cluster does not answer or refuses, until `stopping` is set."""
    backoff = Backoff()
    while not stopping.is_set():
        try:
            ensure_default(cluster)
            return
        except ClusterError as exc:
            delay_s = backoff.next_s(exc.retry_after_s)
            _log.warning("no default CPU model yet", error=exc.message, retry_s=round(delay_s, 1))
            stopping.wait(delay_s)


def ensure_default(cluster: ClusterPort) -> None:
    """Make the default CPU model unless it is there."""
    model = {
        "apiVersion": CPU_MODEL.api_version,
        "kind": CPU_MODEL.kind,
        "metadata": {"name": DEFAULT_NAME},
        "spec": {"type": "Model", "model": DEFAULT_MODEL},
    }
    if cluster.get(CPU_MODEL, DEFAULT_NAME) is not None:
        return
    try:
        cluster.create(CPU_MODEL, model)
    except AlreadyExistsError:
        # Another controller was faster.
        return
