"""`dvcr vm ...`: the ways to a running machine, through the cluster's API, which decides who may go them."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.operations.commands import register as register_operations
from dvcr.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    import aiohttp

    from controller.consoles.client import MachineClient
    from controller.runtime.cluster import Cluster

Name = Annotated[str, typer.Argument(help="Name of the VirtualMachine.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")]
Kubeconfig = Annotated[Path | None, typer.Option(help="Kubeconfig of the cluster; else the settings, then KUBECONFIG.")]
Address = Annotated[str, typer.Option(help="Local address to listen on.")]


def register(app: typer.Typer) -> None:
    """Add the sub-command `vm` to `dvcr`."""
    machines = typer.Typer(
        no_args_is_help=True, rich_markup_mode="markdown", help="Work with running virtual machines."
    )
    for command in (console, vnc, ssh, logs, screenshot):
        machines.command()(command)
    machines.command("port-forward")(port_forward)
    register_operations(machines)
    app.add_typer(machines, name="vm")


def console(
    context: typer.Context, name: Name, namespace: Namespace = "default", kubeconfig: Kubeconfig = None
) -> None:
    """Attach to the serial console of a running machine.

    The recent output comes first. Ctrl-] leaves; the machine runs on. Without a terminal, standard input is sent to the
    machine and its output printed until the machine ends.

    Example: `dvcr vm console demo -n default`
    """
    from controller.consoles.paths import CONSOLE
    from controller.consoles.terminal import attach

    machine = _machine(_cluster(context, kubeconfig), namespace, name)
    _with_session(lambda session: _then(machine.open(session, CONSOLE), attach))


def vnc(
    context: typer.Context,
    name: Name,
    namespace: Namespace = "default",
    port: Annotated[int, typer.Option(help="Local port; 0: any free one.")] = 0,
    address: Address = "127.0.0.1",
    proxy_only: Annotated[bool, typer.Option("--proxy-only", help="Start no viewer.")] = False,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show the screen of a running machine.

    Opens a local port that leads to the machine's VNC server, and starts a viewer if one is installed and there is a
    display; ends with the viewer, or with Ctrl-C. Who may connect to the local port sees the screen.

    Example: `dvcr vm vnc demo`, or `dvcr vm vnc demo --proxy-only --port 5901`
    """
    import asyncio

    from controller.consoles.forwarding import listening
    from controller.consoles.paths import VNC
    from controller.consoles.viewer import run_viewer, viewer_command

    machine = _machine(_cluster(context, kubeconfig), namespace, name)

    async def show(session: "aiohttp.ClientSession") -> None:
        # Said before a viewer is started, whose own words would say less.
        await (await machine.open(session, VNC)).close()
        async with listening(address, port, lambda: machine.open(session, VNC), _report) as chosen:
            command = None if proxy_only else viewer_command(address, chosen)
            typer.echo(f"VNC of {name} is at {address}:{chosen}" + ("" if command else "; Ctrl-C ends it"))
            if command:
                await run_viewer(command)
            else:
                await asyncio.Event().wait()

    _with_session(show)


def ssh(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="[USER@]NAME", help="User in the guest, and the VirtualMachine.")],
    command: Annotated[list[str] | None, typer.Argument(help="Command to run there, after `--`.")] = None,
    namespace: Namespace = "default",
    port: Annotated[int, typer.Option("--port", "-p", help="Port of the SSH server in the guest.")] = 22,
    identity: Annotated[Path | None, typer.Option("--identity", "-i", help="File of the private key.")] = None,
    option: Annotated[list[str] | None, typer.Option("--option", "-o", help="Option of ssh, NAME=VALUE.")] = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Log in to a running machine with the OpenSSH client, whatever network lies between.

    The exit code is that of the command. The machine's host key is remembered for this machine: one that is made anew
    under the same name is another host.

    Example: `dvcr vm ssh debian@demo`, or `dvcr vm ssh debian@demo -- uname -a`
    """
    import os
    import sys

    from controller.api.resource import MACHINE
    from controller.consoles.ssh import ssh_command

    name = target.rpartition("@")[2]
    found = _cluster(context, kubeconfig).get(MACHINE, name, namespace)
    if found is None:
        raise ResourceError(f"there is no VirtualMachine {name!r} in namespace {namespace!r}", reason="NotFound")
    proxy = [str(Path(sys.argv[0]).resolve()), *_options_before(context)]
    proxy += ["vm", "port-forward", "--stdio", "--namespace", namespace]
    proxy += ["--kubeconfig", str(kubeconfig.absolute())] if kubeconfig else []
    proxy += [name, str(port)]
    options = [*(f"IdentityFile={identity}" for _ in range(identity is not None)), *(option or ())]
    arguments = ssh_command(target, namespace, found["metadata"]["uid"], proxy, options, command or ())
    try:
        os.execvp(arguments[0], arguments)  # noqa: S606 (what ssh is told needs no shell)
    except FileNotFoundError as exc:
        raise ConfigError("ssh is not installed; install the package openssh-client") from exc


def port_forward(
    context: typer.Context,
    name: Name,
    ports: Annotated[list[str], typer.Argument(help="LOCAL:REMOTE, :REMOTE for any free local port, or one for both.")],
    namespace: Namespace = "default",
    address: Address = "127.0.0.1",
    stdio: Annotated[bool, typer.Option("--stdio", help="Join standard input and output to the one port.")] = False,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Open local ports that lead to TCP ports of a running machine, until Ctrl-C.

    Example: `dvcr vm port-forward demo 8080:80 2222:22`
    """
    from controller.consoles.forwarding import parse_mappings
    from controller.consoles.paths import PORT_FORWARD
    from controller.consoles.terminal import pipe

    mappings = parse_mappings(ports)
    machine = _machine(_cluster(context, kubeconfig), namespace, name)
    if stdio:
        if len(mappings) != 1:
            raise ResourceError("--stdio takes one port")
        _with_session(lambda session: _then(machine.open(session, PORT_FORWARD, mappings[0].remote), pipe))
        return

    async def forward(session: "aiohttp.ClientSession") -> None:
        import asyncio
        from contextlib import AsyncExitStack

        from controller.consoles.forwarding import Open, listening

        def way(remote: int) -> Open:
            return lambda: machine.open(session, PORT_FORWARD, remote)

        async with AsyncExitStack() as stack:
            for mapping in mappings:
                way_in = listening(address, mapping.local, way(mapping.remote), _report)
                local = await stack.enter_async_context(way_in)
                typer.echo(f"{address}:{local} leads to port {mapping.remote} of {name}")
            await asyncio.Event().wait()

    _with_session(forward)


def logs(
    context: typer.Context,
    name: Name,
    namespace: Namespace = "default",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the machine ends.")] = False,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="The run before the last start.")] = False,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show what a machine wrote to its serial console.

    The newest bytes of the present run are kept, and those of the run before, so that a crash can be looked at after
    the machine has started again.

    Example: `dvcr vm logs demo -f`, or after a crash `dvcr vm logs demo --previous`
    """
    if follow and previous:
        raise ResourceError("the previous run is over: --follow and --previous exclude each other")
    out = typer.get_binary_stream("stdout")
    for piece in _machine(_cluster(context, kubeconfig), namespace, name).log(follow=follow, previous=previous):
        out.write(piece)
        out.flush()


def screenshot(
    context: typer.Context,
    name: Name,
    file: Annotated[str, typer.Argument(help="PNG file to write; - for standard output.")] = "-",
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Save what the screen of a running machine shows, as PNG.

    Example: `dvcr vm screenshot demo demo.png`
    """
    out = typer.get_binary_stream("stdout")
    if file == "-" and out.isatty():
        raise ResourceError("a terminal cannot show a PNG; name a file, or send the output elsewhere")
    image = _machine(_cluster(context, kubeconfig), namespace, name).screenshot()
    if file == "-":
        out.write(image)
        return
    try:
        Path(file).write_bytes(image)
    except OSError as exc:
        raise ConfigError(f"cannot write {file}: {exc.strerror}") from exc


def _cluster(context: typer.Context, kubeconfig: Path | None) -> "Cluster":
    from controller.runtime.cluster import Cluster

    return Cluster.connect(kubeconfig or context.obj.controller.kubeconfig)


def _machine(cluster: "Cluster", namespace: str, name: str) -> "MachineClient":
    from controller.consoles.client import MachineClient

    return MachineClient(cluster, namespace, name)


def _with_session(work: "Callable[[aiohttp.ClientSession], Awaitable[None]]") -> None:
    import asyncio

    from controller.relay import new_session

    async def run() -> None:
        async with new_session() as session:
            await work(session)

    asyncio.run(run())


async def _then(
    opening: "Awaitable[aiohttp.ClientWebSocketResponse]",
    use: "Callable[[aiohttp.ClientWebSocketResponse], Awaitable[None]]",
) -> None:
    await use(await opening)


def _report(message: str) -> None:
    typer.echo(message, err=True)


def _options_before(context: typer.Context) -> list[str]:
    """The options that stood before the sub-command, for another `dvcr`."""
    config = context.find_root().params.get("config")
    return ["--config", str(config.absolute())] if config else []
