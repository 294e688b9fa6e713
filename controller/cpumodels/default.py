"""The CPU model of machines that name none."""

from controller.api.machine import Cpu
from controller.api.resource import CPU_MODEL
from controller.runtime.errors import AlreadyExistsError
from controller.runtime.port import ClusterPort

DEFAULT_NAME = str(Cpu.model_fields["model_name"].default)
DEFAULT_MODEL = "Nehalem"
"""What any x86 server processor of the last fifteen years has: x86-64-v2, which present distributions are built for."""


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
