"""`dvcr uploader`."""

import asyncio
import signal

import typer

from dvcr.config import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("uploader")(uploader)


def uploader(context: typer.Context) -> None:
    """Receive the files that users upload, until SIGTERM.

    Example: `DVCR__UPLOADER__PORT=5001 dvcr uploader`, then `curl http://127.0.0.1:5001/upload/<token> -T disk.qcow2`
    with the address from the image's status.
    """
    asyncio.run(_serve(context.obj))


async def _serve(settings: Settings) -> None:
    from aiohttp import web

    from dvcr.client.registry import RegistryClient
    from dvcr.jobs.redis import RedisJobBoard
    from uploader.app import build_app

    board = RedisJobBoard.from_settings(settings.broker)
    app = build_app(board, RegistryClient.from_settings(settings.client), settings.uploader)
    # read_bufsize: how much aiohttp reads ahead of us, and so the memory of a connection.
    runner = web.AppRunner(app, access_log=None, read_bufsize=2**20)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.uploader.host, settings.uploader.port, shutdown_timeout=1)
        await site.start()
        host, port = runner.addresses[0][:2]
        print(f"listening on http://{host}:{port}", flush=True)
        await stopped.wait()
    finally:
        await runner.cleanup()
