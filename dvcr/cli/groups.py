"""Groups of commands that several packages add to."""

import typer


def image_group(app: typer.Typer) -> typer.Typer:
    """The commands `dvcr image ...` of `app`; who asks first makes the group."""
    for group in app.registered_groups:
        if group.name == "image" and group.typer_instance is not None:
            return group.typer_instance
    image = typer.Typer(
        no_args_is_help=True, help="Images of the registry: import, upload, list, look at, export, copy, remove."
    )
    app.add_typer(image, name="image")
    return image
