"""`dvcr image upload`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.resources import Kubeconfig
from dvcr.cli.groups import image_group

if TYPE_CHECKING:
    from controller.uploads.file import LocalFile
    from controller.uploads.image import UploadedImage

_PATIENCE_S = 300


def register(app: typer.Typer) -> None:
    """Add the command to `dvcr image`."""
    image_group(app).command("upload")(upload)


def upload(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Image in any accepted format, also compressed or in an OVA.")],
    name: Annotated[str, typer.Option("--name", help="Name of the VirtualMachineImage.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")] = "default",
    cluster_wide: Annotated[
        bool, typer.Option("--cluster", help="Make a ClusterVirtualMachineImage, for all namespaces.")
    ] = False,
    ca_file: Annotated[
        Path | None, typer.Option(help="PEM authorities to trust for the uploader instead of the usual ones.")
    ] = None,
    timeout: Annotated[str, typer.Option(help="Longest wait for the import after the upload: 90s, 5m, 1h.")] = "1h",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Make an image out of a file of yours, and wait until it is Ready.

    After a cut the upload goes on by itself, after Ctrl-C by the same command.

    Example: `dvcr image upload debian.qcow2 --name debian`
    """
    from controller.cli.waiting import parse_duration_s
    from controller.runtime.cluster import Cluster
    from controller.uploads.file import LocalFile, refuse_early
    from controller.uploads.image import UploadedImage

    timeout_s = parse_duration_s(timeout)
    with LocalFile.open(file) as local:
        refuse_early(local, max_virtual_size_bytes=context.obj.importer.max_virtual_size_bytes)
        cluster = Cluster.connect(kubeconfig or context.obj.controller.kubeconfig)
        image = UploadedImage(cluster, name, None if cluster_wide else namespace)
        image.require_usable()
        try:
            _send(local, image, ca_file)
            status = image.wait_until_ready(timeout_s)["status"]
        except KeyboardInterrupt:
            typer.echo("stopped; the same command goes on where it stopped", err=True)
            raise typer.Exit(130) from None
    size = status["size"]
    typer.echo(f"{image.title} is Ready: {status['format']}, {size['unpacked']} ({size['stored']} stored)")


def _send(local: LocalFile, image: UploadedImage, ca_file: Path | None) -> None:
    from controller.uploads.address import HttpAddress
    from controller.uploads.sending import Sender
    from dvcr.cli.bars import progress_bars

    with progress_bars() as bars:
        checksum = bars.add_task("checksum", total=local.total_bytes)
        sha256 = local.sha256(lambda done: bars.update(checksum, completed=done))
        image.create_or_go_on(sha256)
        url = image.wait_for_address()
        if not url:
            return
        task = bars.add_task("upload", total=local.total_bytes)

        def progress(done: int) -> None:
            bars.update(task, completed=done, description="upload")

        def waiting(why: str, wait_s: float) -> None:
            bars.update(task, description="waiting")
            bars.console.print(f"{why}; trying again in {wait_s:g} s", highlight=False, markup=False, soft_wrap=True)

        with closing(HttpAddress(url, local, progress, ca_file)) as address:
            Sender(
                address,
                local.total_bytes,
                wanted=image.waits_for_bytes,
                progress=progress,
                waiting=waiting,
                patience_s=_PATIENCE_S,
            ).send()
