"""`dvcr image export` and `dvcr image copy`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(help="Image as REPOSITORY[:TAG] or REPOSITORY@DIGEST; the default tag is latest.")]
PlainHttp = Annotated[bool, typer.Option("--plain-http", help="Speak to other registries without TLS.")]
CaFile = Annotated[
    Path | None, typer.Option(help="PEM authorities to trust for other registries instead of the system's.")
]
InsecureSkipVerify = Annotated[bool, typer.Option(help="Accept any certificate of other registries.")]


class Target(StrEnum):
    """What an export can become."""

    FILE = "file"
    CONTAINER_DISK = "containerdisk"


def register(image: typer.Typer) -> None:
    """Add the commands to `dvcr image`."""
    image.command("export")(export)
    image.command("copy")(copy)


def export(
    context: typer.Context,
    name: Name,
    destination: Annotated[
        str,
        typer.Argument(
            help="File to write, replaced once the export is whole; - for standard output. With --to containerdisk the "
            "image to push, as HOST/REPOSITORY[:TAG], or without HOST in the registry of the settings."
        ),
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format", "-f", help="raw, qcow2, vmdk, vdi, vhd or vhdx; by default the file's suffix says, and qcow2."
        ),
    ] = "",
    compress: Annotated[
        str,
        typer.Option(
            help="none, zlib or zstd. By default vmdk is compressed (zlib: streamOptimized), and so is a "
            "containerdisk; files of the other formats are not."
        ),
    ] = "",
    to: Annotated[Target, typer.Option(help="A file, or a container image for KubeVirt.")] = Target.FILE,
    arch: Annotated[str, typer.Option(help="Architecture that a containerdisk is for.")] = "amd64",
    plain_http: PlainHttp = False,
    ca_file: CaFile = None,
    insecure_skip_verify: InsecureSkipVerify = False,
) -> None:
    """Write an image to a file, or push it as a containerDisk of KubeVirt.

    Examples: `dvcr image export cvmi/debian debian.qcow2 --compress zstd`,
    `dvcr image export cvmi/debian - | gzip > debian.raw.gz`,
    `dvcr image export cvmi/debian registry.example.com/disks/debian:12 --to containerdisk`
    """
    if to is Target.FILE:
        from importer.exports.file import export_to_file

        export_to_file(context.obj, name, Path(destination), format_, compress)
        return
    from importer.exports.containerdisk import export_to_container_disk
    from importer.registries import Registries, RegistryOptions

    registries = Registries(context.obj.client, RegistryOptions(plain_http, ca_file, insecure_skip_verify))
    pushed = export_to_container_disk(context.obj, name, registries, destination, format_ or "qcow2", compress, arch)
    typer.echo(pushed)


def copy(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Image as [HOST/]REPOSITORY[:TAG] or [HOST/]REPOSITORY@DIGEST.")],
    destination: Annotated[str, typer.Argument(help="Where to put it, as [HOST/]REPOSITORY[:TAG].")],
    plain_http: PlainHttp = False,
    ca_file: CaFile = None,
    insecure_skip_verify: InsecureSkipVerify = False,
) -> None:
    """Copy an image of any kind between registries and repositories; only what is missing there is moved.

    Names without HOST are in the registry of the settings. Interrupted, the same command goes on where it stopped.
    Other registries are logged in to as `docker login` or `podman login` left it.

    Example: `dvcr image copy cvmi/debian:12 registry.example.com/disks/debian:12`
    """
    from importer.exports.copy import copy_with_progress
    from importer.registries import Registries, RegistryOptions

    registries = Registries(context.obj.client, RegistryOptions(plain_http, ca_file, insecure_skip_verify))
    typer.echo(copy_with_progress(registries, source, destination))
