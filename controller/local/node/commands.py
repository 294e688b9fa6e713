"""`dvcr node`: the agent that runs the pods of the embedded cluster."""

import signal
import threading

import typer


def register(app: typer.Typer) -> None:
    """Add the command to `dvcr`."""

    @app.command()
    def node(context: typer.Context) -> None:
        """Run this machine's part of the embedded cluster: pods as processes, claims as folders.

        Killed, it leaves its pods running and takes them up again when it is started; stopped by SIGTERM it stops them
        first, each within its grace period.

        Example: `DVCR__CONTROLLER__KUBECONFIG=data/kubeconfig dvcr node`
        """
        from controller.local.node.agent import Agent
        from controller.local.node.processor import announce_processor
        from controller.runtime.cluster import Cluster

        settings = context.obj
        done = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: done.set())
        kubeconfig = settings.controller.kubeconfig or settings.cluster.kubeconfig
        cluster = Cluster.connect(kubeconfig)
        agent = Agent(settings.node, cluster)
        agent.start()
        announce_processor(cluster, settings.node.name, settings.launcher, done)
        typer.echo(f"node {settings.node.name} ready")
        done.wait()
        agent.stop()
