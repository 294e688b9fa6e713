"""`dvcr access`: passwords and keys of the registry."""

import sys
from typing import Annotated

import typer

from dvcr.config import Settings


def register(app: typer.Typer) -> None:
    """Add `dvcr access` to `dvcr`."""
    group = typer.Typer(no_args_is_help=True, help="Passwords and token keys of the registry.")
    group.command()(password)
    group.command()(rotate_key)
    app.add_typer(group, name="access")


def password(user: Annotated[str, typer.Argument(help="Name of the user.")]) -> None:
    """Print a user's line for the file that `access.htpasswd_file` names.

    The password is asked for; where there is no terminal, it is the first line of the standard input.

    Example: `dvcr access password alice >> /etc/dvcr/htpasswd`
    """
    from dvcr.access.caller import user_name
    from dvcr.access.htpasswd import entry

    user_name(user)  # before a password is typed for nothing
    if sys.stdin.isatty():
        value = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        value = sys.stdin.readline().rstrip("\r\n")
    typer.echo(entry(user, value))


def rotate_key(context: typer.Context) -> None:
    """Make a new key that signs tokens from now on; the old ones stay good until their files are removed.

    Example: `dvcr access rotate-key`
    """
    from dvcr.access.keys import make_key

    settings: Settings = context.obj
    folder = settings.access.token_key_dir
    typer.echo(f"new key: {folder / make_key(folder)}.pem")
