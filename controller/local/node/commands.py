"""`dvcr node`: the agent that runs the pods of the embedded cluster, and what people do with nodes."""

from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(help="Name of the node; `dvcr get nodes` shows them.")]


def register(app: typer.Typer) -> None:
    """Add the command and its sub-commands to `dvcr`."""
    nodes = typer.Typer(invoke_without_command=True, help="Run a node of the embedded cluster, or empty a node.")
    nodes.callback()(node)
    for command in (drain, cordon, uncordon):
        nodes.command()(command)
    app.add_typer(nodes, name="node")


def node(context: typer.Context) -> None:
    """Run this machine's part of the embedded cluster: pods as processes, claims as folders.

    Killed, it leaves its pods running and takes them up again when it is started; stopped by SIGTERM it stops them
    first, each within its grace period.

    Example: `DVCR__CONTROLLER__KUBECONFIG=data/kubeconfig dvcr node`
    """
    from controller.local.node.agent import Agent
    from controller.local.node.processor import announce_processor
    from controller.runtime.cluster import Cluster
    from controller.runtime.termination import termination

    if context.invoked_subcommand is not None:
        return
    settings = context.obj
    done = termination()
    kubeconfig = settings.controller.kubeconfig or settings.cluster.kubeconfig
    cluster = Cluster.connect(kubeconfig)
    agent = Agent(settings.node, cluster, cache_dir=settings.launcher.cache_dir)
    agent.start()
    announce_processor(cluster, settings.node.name, settings.launcher, agent.tell, done)
    typer.echo(f"node {settings.node.name} ready")
    done.wait()
    agent.stop()


def drain(
    context: typer.Context,
    name: Name,
    force: Annotated[bool, typer.Option(help="Power off the machines that cannot move.")] = False,
    timeout: Annotated[str, typer.Option(help="Longest time to take: 90s, 5m, 1h.")] = "10m",
) -> None:
    """Move all machines off a node and evict its other pods; the node takes no new ones until `dvcr node uncordon`.

    Example: `dvcr node drain node-1`
    """
    from controller.cli.draining import Drain
    from controller.cli.waiting import parse_duration_s
    from controller.runtime.cluster import Cluster

    cluster = Cluster.connect(context.obj.controller.kubeconfig)
    Drain(cluster, name, typer.echo, force=force).run(parse_duration_s(timeout))
    typer.echo(f"node/{name} is empty")


def cordon(context: typer.Context, name: Name) -> None:
    """Have a node take no new pods.

    Example: `dvcr node cordon node-1`
    """
    _set_unschedulable(context, name, True)
    typer.echo(f"node/{name} takes no new pods")


def uncordon(context: typer.Context, name: Name) -> None:
    """Have a node take pods again.

    Example: `dvcr node uncordon node-1`
    """
    _set_unschedulable(context, name, False)
    typer.echo(f"node/{name} takes pods")


def _set_unschedulable(context: typer.Context, name: str, unschedulable: bool) -> None:
    from controller.cli.draining import cordon as set_unschedulable
    from controller.runtime.cluster import Cluster

    set_unschedulable(Cluster.connect(context.obj.controller.kubeconfig), name, unschedulable=unschedulable)
