"""`dvcr access`: passwords and keys of the registry."""

from typing import Annotated

import typer

from dvcr.config import Settings


def register(app: typer.Typer) -> None:
    """Add `dvcr access` to `dvcr`."""
    group = typer.Typer(no_args_is_help=True, help="Passwords and token keys of the registry.")
    group.command()(password)
    group.command()(rotate_key)
    app.add_typer(group, name="access")


def password(
    user: Annotated[str, typer.Argument(help="Name of the user.")],
    value: Annotated[str, typer.Option("--password", prompt=True, hide_input=True, confirmation_prompt=True)],
) -> None:
    """Print a user's line for the file that `access.htpasswd_file` names; the password is asked for.

    Example: `dvcr access password alice >> /etc/dvcr/htpasswd`
    """
    from dvcr.access.htpasswd import entry

    typer.echo(entry(user, value))


def rotate_key(context: typer.Context) -> None:
    """Make a new key that signs tokens from now on; the old ones stay good until their files are removed.

    Example: `dvcr access rotate-key`
    """
    from dvcr.access.keys import make_key

    settings: Settings = context.obj
    folder = settings.access.token_key_dir
    typer.echo(f"new key: {folder / make_key(folder)}.pem")
