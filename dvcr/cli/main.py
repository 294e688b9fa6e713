"""The `dvcr` command. Other packages add their commands through the entry-point group `dvcr.commands`."""

import signal
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from dvcr.config import load_settings
from dvcr.errors import DvcrError
from dvcr.logging import configure_logging

COMMAND_GROUP = "dvcr.commands"

app = typer.Typer(
    name="dvcr",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Virtual machine images in a registry, and machines out of them.",
)


def _print_version(wished: bool) -> None:
    if wished:
        print(f"dvcr {version('dvcr')}")
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with settings; the environment (DVCR__...) wins over it.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Load the settings once; commands read them from `context.obj`."""
    if context.resilient_parsing:
        return
    context.obj = load_settings(config)
    configure_logging(context.obj.log.level, context.obj.log.style)


def build_app() -> typer.Typer:
    """The application with the commands of every installed package."""
    for entry in sorted(entry_points(group=COMMAND_GROUP), key=lambda e: e.name):
        entry.load()(app)
    return app


def main() -> None:
    """Run `dvcr`; an expected error prints as one line, without a traceback, and exits 1.

    SIGTERM, and SIGHUP of a terminal that goes, end a command as Ctrl-C does: it leaves nothing behind.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        build_app()()
    except SystemExit:
        raise
    except BaseException as exc:
        code = _interrupted(exc)
        if code is not None:
            sys.exit(code)
        if not isinstance(exc, DvcrError):
            raise
        Console(stderr=True).print(f"[bold red]error:[/] {escape(exc.message)}", soft_wrap=True, highlight=False)
        sys.exit(1)


def _interrupted(exc: BaseException) -> int | None:
    """The exit status if a signal ended the command, also where what it interrupted then failed on the way out."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return 128 + signal.SIGINT
        if isinstance(cause, SystemExit) and isinstance(cause.code, int):
            return cause.code
        cause = cause.__context__
    return None
