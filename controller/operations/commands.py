"""`dvcr vm start|stop|restart|migrate`: VirtualMachineOperations for people."""

import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.api.operation import OperationPhase, OperationType
from controller.api.resource import MACHINE, OPERATION
from dvcr.errors import ResourceError

if TYPE_CHECKING:
    from controller.runtime.cluster import Cluster

Object = dict[str, Any]

Name = Annotated[str, typer.Argument(help="Name of the VirtualMachine.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")]
Kubeconfig = Annotated[Path | None, typer.Option(help="Kubeconfig of the cluster; else the settings, then KUBECONFIG.")]
Force = Annotated[bool, typer.Option("--force", help="Do not ask the guest: pull the plug.")]
Wait = Annotated[bool, typer.Option(help="Tell how it goes, and return when it is done.")]
Timeout = Annotated[str, typer.Option(help="Longest wait: 90s, 5m, 1h.")]


def register(machines: typer.Typer) -> None:
    """Add the commands to `dvcr vm`."""
    for command in (start, stop, restart, migrate):
        machines.command()(command)


def start(
    context: typer.Context, name: Name, namespace: Namespace = "default", wait: Wait = True, timeout: Timeout = "10m",
    kubeconfig: Kubeconfig = None,
) -> None:  # fmt: skip
    """Switch a machine on.

    Example: `dvcr vm start demo`
    """
    operation = build_operation(OperationType.START, name, namespace, force=False)
    _carry_out(context, operation, wait, timeout, kubeconfig)


def stop(
    context: typer.Context, name: Name, namespace: Namespace = "default", force: Force = False, wait: Wait = True,
    timeout: Timeout = "10m", kubeconfig: Kubeconfig = None,
) -> None:  # fmt: skip
    """Switch a machine off: its guest is asked to power off, and killed after the machine's grace period.

    Example: `dvcr vm stop demo --force`
    """
    operation = build_operation(OperationType.STOP, name, namespace, force=force)
    _carry_out(context, operation, wait, timeout, kubeconfig)


def restart(
    context: typer.Context, name: Name, namespace: Namespace = "default", force: Force = False, wait: Wait = True,
    timeout: Timeout = "10m", kubeconfig: Kubeconfig = None,
) -> None:  # fmt: skip
    """Switch a machine off and on again, which also applies the changes that wait for it.

    Example: `dvcr vm restart demo`
    """
    operation = build_operation(OperationType.RESTART, name, namespace, force=force)
    _carry_out(context, operation, wait, timeout, kubeconfig)


def migrate(
    context: typer.Context, name: Name, namespace: Namespace = "default", wait: Wait = True, timeout: Timeout = "30m",
    kubeconfig: Kubeconfig = None,
) -> None:  # fmt: skip
    """Move a running machine to another node. The guest runs on, but for a moment at the end.

    Example: `dvcr vm migrate demo`
    """
    operation = build_operation(OperationType.MIGRATE, name, namespace, force=False)
    _carry_out(context, operation, wait, timeout, kubeconfig)


def _carry_out(context: typer.Context, operation: Object, wait: bool, timeout: str, kubeconfig: Path | None) -> None:
    from controller.cli.waiting import parse_duration_s
    from controller.runtime.cluster import Cluster

    timeout_s = parse_duration_s(timeout)
    cluster = Cluster.connect(kubeconfig or context.obj.controller.kubeconfig)
    name, namespace = operation["metadata"]["name"], operation["metadata"]["namespace"]
    machine = operation["spec"]["virtualMachineName"]
    if cluster.get(MACHINE, machine, namespace) is None:
        raise ResourceError(f"there is no VirtualMachine {machine!r} in namespace {namespace!r}", reason="NotFound")
    cluster.create(OPERATION, operation)
    typer.echo(f"virtualmachineoperation/{name} created")
    if wait:
        _follow(cluster, name, namespace, timeout_s)


def build_operation(kind: OperationType, machine: str, namespace: str, *, force: bool) -> Object:
    """The resource, with a name of its own."""
    # What is too long for a name is cut in the machine's part.
    suffix = f"{kind.value.lower()}-{secrets.token_hex(3)}"
    spec: Object = {"type": kind.value, "virtualMachineName": machine}
    return {
        "apiVersion": OPERATION.api_version,
        "kind": OPERATION.kind,
        "metadata": {"name": f"{machine[: 63 - len(suffix) - 1]}-{suffix}", "namespace": namespace},
        "spec": spec | ({"force": True} if force else {}),
    }


def _follow(cluster: "Cluster", name: str, namespace: str, timeout_s: float) -> None:
    """Print what the operation waits for until it ends; ResourceError if it fails, or not in time."""
    changed = threading.Event()
    deadline = time.monotonic() + timeout_s
    follower = cluster.inform(OPERATION, lambda _, __: changed.set(), f"metadata.name={name}")
    told = ""
    try:
        while True:
            changed.clear()
            synced = follower.wait_synced(0)
            obj = follower.get(name, namespace)
            if synced and obj is None:
                raise ResourceError(f"the operation {name!r} was deleted", reason="NotFound")
            phase, message = outcome(obj or {})
            if phase is OperationPhase.FAILED:
                raise ResourceError(message, reason="OperationFailed")
            if message and message != told:
                typer.echo(message, err=phase is not OperationPhase.COMPLETED)
                told = message
            if phase is OperationPhase.COMPLETED:
                return
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not changed.wait(left_s):
                raise ResourceError(f"not within {timeout_s:g} s; {told or 'nobody takes it up'}", reason="Timeout")
    finally:
        follower.stop()


def outcome(operation: Object) -> tuple[OperationPhase, str]:
    """How far it is, and what it says of that."""
    status = operation.get("status") or {}
    conditions = [c for c in status.get("conditions") or () if c["type"] == "Completed"]
    message = status.get("failureMessage") or (conditions[0].get("message", "") if conditions else "")
    return OperationPhase(status.get("phase") or OperationPhase.PENDING), str(message)
