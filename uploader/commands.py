"""`dvcr uploader`."""

import asyncio

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("uploader")(uploader)


def uploader(context: typer.Context) -> None:
    """Receive the files that users upload, until SIGTERM.

    Example: `DVCR__UPLOADER__PORT=5001 dvcr uploader`, then `curl http://127.0.0.1:5001/upload/<token> -T disk.qcow2`
    with the address from the image's status.
    """
    from uploader.server import serve

    asyncio.run(serve(context.obj))
