"""`dvcr up`: everything on one machine, from one command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from controller.local.up.plan import Plan


def register(app: typer.Typer) -> None:
    """Add `dvcr up`."""
    app.command("up")(up)


def up(
    data: Annotated[Path, typer.Option(help="Folder that holds everything: images, disks, the cluster, logs.")] = Path(
        "data"
    ),
    registry_port: Annotated[int, typer.Option(help="Port of the registry; 0: any free one, remembered.")] = 0,
    uploader_port: Annotated[int, typer.Option(help="Port of the uploader; 0: any free one, remembered.")] = 0,
    api_port: Annotated[int, typer.Option(help="Port of the cluster's API; 0: any free one, remembered.")] = 0,
) -> None:
    """Run DVCR on this machine until Ctrl-C.

    Starts the registry, Redis, a worker, the uploader, the embedded cluster, the controller and a node agent, and
    writes a kubeconfig. Machines are powered off when it stops, and start again with the next `dvcr up`. It waits 90 s
    for them: a guest that has a longer grace period and needs it goes on powering off after the command has ended.

    Example: `dvcr up --data ~/dvcr`, then in another terminal `export KUBECONFIG=~/dvcr/kubeconfig` and
    `dvcr apply -f examples/quickstart.yaml`
    """
    import asyncio
    import fcntl

    from controller.local.up.plan import choose_ports, make_plan
    from dvcr.errors import ConfigError

    data = data.expanduser().resolve()
    data.mkdir(parents=True, exist_ok=True)
    with (data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ConfigError(f"another `dvcr up` uses {data}; stop it, or give another folder with --data") from exc
        asyncio.run(run(data, make_plan(data, choose_ports(data, registry_port, uploader_port, api_port))))


async def run(data: Path, plan: "Plan") -> None:
    """Keep the processes of the plan running until SIGINT or SIGTERM, and say so on standard output."""
    import asyncio
    import signal

    from rich.console import Console

    from controller.local.up.supervisor import Supervisor

    console = Console(soft_wrap=True, highlight=False)
    log_dir = data / "logs"
    log_dir.mkdir(exist_ok=True)
    addresses = {
        "registry": f"http://127.0.0.1:{plan.ports.registry}",
        "uploader": f"http://127.0.0.1:{plan.ports.uploader}",
        "cluster": f"https://127.0.0.1:{plan.ports.api}",
    }

    def say(name: str, text: str) -> None:
        where = addresses.get(name, "") if text == "ready" else ""
        console.print(f"[bold]{name:<11}[/]{text} {where}".rstrip())

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(plan, log_dir, say)
    start = asyncio.create_task(supervisor.start())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({start, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            start.result()
            console.print(f"\nDVCR is up; logs are in {log_dir}. In another terminal:\n")
            console.print(f"    export KUBECONFIG={plan.kubeconfig}\n    dvcr get all\n\nCtrl-C stops it.")
            await stopping
    finally:
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        console.print("stopping ...")
        await supervisor.stop()
