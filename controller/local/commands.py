"""`dvcr cluster`."""

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def cluster(context: typer.Context) -> None:
        """Serve the embedded cluster: a Kubernetes-compatible API on SQLite, for one machine.

        Writes a kubeconfig that kubectl and every `dvcr` command can use.

        Example: `dvcr cluster`, then `kubectl --kubeconfig data/kubeconfig get namespaces`
        """
        import uvloop

        from controller.local.cluster import serve

        uvloop.run(serve(context.obj.cluster))
