"""`dvcr worker` and `dvcr image ...`."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dvcr.cli.groups import image_group
from dvcr.config import Settings
from importer.exports import commands as exports

Name = Annotated[str, typer.Argument(help="Image as REPOSITORY[:TAG] or REPOSITORY@DIGEST; the default tag is latest.")]
_PIPE_WIDTH = 1000
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("worker")(worker)
    image = image_group(app)
    image.command("import")(import_)
    image.command("ls")(ls)
    image.command("inspect")(inspect)
    exports.register(image)
    image.command("rm")(rm)


def worker(context: typer.Context) -> None:
    """Run the imports that are sent through Redis, until SIGTERM.

    Example: `DVCR__BROKER__URL=redis://127.0.0.1:6379/0 dvcr worker`
    """
    # Read by Celery when it is imported: SIGTERM ends the worker at once, and what it ran goes back to the queue, not
    # than after the last import, which may take hours.
    os.environ["REMAP_SIGTERM"] = "SIGQUIT"
    from importer.app import run_worker

    run_worker(context.obj)


def import_(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="Where the image is: http(s)://..., s3://BUCKET/KEY, docker://REGISTRY/IMAGE:TAG.")
    ],
    name: Annotated[str, typer.Argument(help="Name to give it, as REPOSITORY[:TAG]; the default tag is latest.")],
    md5: Annotated[str, typer.Option(help="Checksum that the fetched bytes must have.")] = "",
    sha1: Annotated[str, typer.Option(help="Checksum that the fetched bytes must have.")] = "",
    sha256: Annotated[str, typer.Option(help="Checksum that the fetched bytes must have.")] = "",
    sha512: Annotated[str, typer.Option(help="Checksum that the fetched bytes must have.")] = "",
    ca_file: Annotated[Path | None, typer.Option(help="PEM authorities to trust instead of the system's.")] = None,
    insecure_skip_verify: Annotated[bool, typer.Option(help="https: accept any certificate of the server.")] = False,
    username: Annotated[str, typer.Option(help="User at the source; registries: by default who is logged in.")] = "",
    password: Annotated[
        str,
        typer.Option(
            envvar="DVCR_SOURCE_PASSWORD", help="Password; better in the environment, which others can't read."
        ),
    ] = "",
    header: Annotated[
        list[str] | None, typer.Option(help="http(s): a further header, `Name: value`; repeat it.")
    ] = None,
    plain_http: Annotated[bool, typer.Option(help="docker: speak to the registry without TLS.")] = False,
    platform: Annotated[str, typer.Option(help="docker: `linux/arm64` of an image for several platforms.")] = "",
    endpoint_url: Annotated[
        str, typer.Option(envvar="AWS_ENDPOINT_URL_S3", help="s3: address of a server other than Amazon's.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Fetch an image, convert it and store it in the registry of the settings; no worker is needed.

    A disk that is a DVCR image already (docker://...) is copied as it is. Logins are those of docker and podman, AWS
    credentials come from the usual places.

    Example: `dvcr image import https://example.com/debian-12.qcow2 cvmi/debian --sha256 9f3c...`
    """
    from dvcr.errors import ConfigError
    from importer.sources.named import SourceOptions
    from importer.terminal import import_with_progress

    given = {"md5": md5, "sha1": sha1, "sha256": sha256, "sha512": sha512}
    try:
        ca_bundle = ca_file.read_text() if ca_file else ""
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"--ca-file: cannot read {ca_file}: {exc}") from exc
    options = SourceOptions(
        ca_bundle=ca_bundle,
        insecure_skip_verify=insecure_skip_verify,
        username=username,
        password=password,
        headers=tuple(header or ()),
        plain_http=plain_http,
        platform=platform,
        endpoint_url=endpoint_url if source.startswith("s3:") else "",  # the environment may always have it
    )
    checksums = {algorithm: value.strip().lower() for algorithm, value in given.items() if value}
    described = import_with_progress(context.obj, source, options, name, checksums)
    if as_json:
        _print_json(described)


def ls(
    context: typer.Context,
    prefix: Annotated[str, typer.Argument(help="Only repositories that begin with this.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the disk images of the registry, tag by tag.

    Example: `dvcr image ls cvmi/`
    """
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    from importer.catalog import images

    rows = list(images(_client(context.obj), prefix))
    if as_json:
        _print_json(rows)
        return
    table = Table("NAME", "TAG", "FORMAT", "SIZE", "STORED", "CREATED", box=None, pad_edge=False)
    for row in rows:
        size, stored = decimal(row["virtualSize"]), decimal(row["storedBytes"])
        table.add_row(row["repository"], row["tag"], row["source"]["format"], size, stored, row["created"][:19])
    # A pipe has no width: nothing is cut there.
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def inspect(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Tell what an image is: sizes, source, checksums, chunks.

    Example: `dvcr image inspect cvmi/debian --json`
    """
    from dvcr.artifact.store import fetch
    from importer.catalog import describe
    from importer.reference import ImageReference

    reference = ImageReference.parse(name)
    described = describe(fetch(reference.of(_client(context.obj)), reference.reference))
    if as_json:
        _print_json(described)
        return
    source = described.pop("source")
    for key, value in {**described, **{f"source.{key}": value for key, value in source.items()}}.items():
        text = ", ".join(f"{k}:{v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        typer.echo(f"{key:<20}{text}")


def rm(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="Images as REPOSITORY[:TAG] or REPOSITORY@DIGEST.")],
) -> None:
    """Remove images, under all their tags, with the chunks that no other image of the repository needs.

    Example: `dvcr image rm cvmi/debian:12`
    """
    from dvcr.artifact.store import remove
    from importer.reference import ImageReference

    client = _client(context.obj)
    for name in names:
        reference = ImageReference.parse(name)
        repository = reference.of(client)
        digest = repository.manifest(reference.reference).digest
        remove(repository, digest)
        typer.echo(f"removed {reference.repository}@{digest}")


def _client(settings: Settings) -> Any:
    from dvcr.client.registry import RegistryClient

    return RegistryClient.from_settings(settings.client)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))
