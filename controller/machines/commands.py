"""`dvcr vm ...`: what people do with machines beyond the verbs that all resources share."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.api.resource import MACHINE, POD
from dvcr.errors import ResourceError

if TYPE_CHECKING:
    from controller.runtime.cluster import Cluster


def register(app: typer.Typer) -> None:
    """Add the sub-command `vm` to `dvcr`."""
    machines = typer.Typer(no_args_is_help=True, help="Work with running virtual machines.")
    machines.command("console")(console)
    app.add_typer(machines, name="vm")


def console(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the VirtualMachine.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")] = "default",
) -> None:
    """Attach to the serial console of a running machine.

    The recent output comes first. Ctrl-] leaves; the machine runs on. Without a terminal, standard input is sent to the
    machine and its output printed until the machine ends.

    Example: `dvcr vm console demo -n default`
    """
    import asyncio

    from controller.launcher.spec import STATUS_PORT, machine_identity
    from controller.machines.authority import MachineAuthority
    from controller.machines.pod import machine_uid
    from controller.machines.terminal import attach
    from controller.runtime.cluster import Cluster

    cluster = Cluster.connect(context.obj.controller.kubeconfig)
    pod = running_pod(cluster, name, namespace)
    # Who may read the authority's Secret may do what the controller may.
    tls = MachineAuthority(cluster, context.obj.controller.namespace).client_context()
    url = f"wss://{pod['status']['podIP']}:{STATUS_PORT}/console"
    asyncio.run(attach(url, tls=tls, server_name=machine_identity(machine_uid(pod))))


def running_pod(cluster: "Cluster", name: str, namespace: str) -> dict[str, Any]:
    """The pod that runs the machine, with its address; ResourceError, with the machine's phase, if none does."""
    machine = cluster.get(MACHINE, name, namespace)
    if machine is None:
        raise ResourceError(f"there is no VirtualMachine {name!r} in namespace {namespace!r}", reason="NotFound")
    for pod in cluster.list(POD, namespace):
        if _runs(pod, machine) and pod["status"].get("podIP"):
            return pod
    phase = machine.get("status", {}).get("phase", "Pending")
    raise ResourceError(
        f"VirtualMachine {name!r} has no running pod (phase {phase}); wait until it is Running",
        reason="MachineNotRunning",
        retryable=True,
    )


def _runs(pod: dict[str, Any], machine: dict[str, Any]) -> bool:
    owners = {owner["uid"] for owner in pod["metadata"].get("ownerReferences", [])}
    return machine["metadata"]["uid"] in owners and pod.get("status", {}).get("phase") == "Running"
