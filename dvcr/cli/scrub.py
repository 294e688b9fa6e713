"""What `dvcr scrub` shows."""

import json
import sys
from dataclasses import asdict

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from dvcr.registry.registry import Registry
from dvcr.registry.scrub import ScrubReport

FOUND = 3


def scrub(registry: Registry, *, as_json: bool) -> int:
    """Scrub with a progress bar on a terminal, print the report, and give the exit status: 0, or FOUND."""
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=registry.scrubber.size_bytes() if console.is_terminal else None)
        report = registry.scrubber.run(on_bytes=lambda count: progress.update(task, advance=count))
    if as_json:
        json.dump(asdict(report) | {"healthy": report.healthy}, sys.stdout, indent=2)
        print()
    else:
        _print(report)
    return 0 if report.healthy else FOUND


def _print(report: ScrubReport) -> None:
    print(f"read {report.blobs} blobs and {report.manifests} manifests ({report.bytes / 2**20:.1f} MiB)")
    for name, values in (
        ("corrupt blob, now in quarantine", report.corrupt_blobs),
        ("corrupt manifest, now in quarantine", report.corrupt_manifests),
        ("not readable", report.unreadable),
    ):
        for value in values:
            print(f"{name}: {value}")
    for image, lacks in sorted(report.damaged_images.items()):
        print(f"image {image} cannot be pulled: {'; '.join(lacks)}")
    if report.repaired_referrers:
        print(f"wrote {report.repaired_referrers} entries of referrers anew")
    if report.damaged_images:
        print("push the images above again, or delete them")
    elif report.healthy:
        print("all is well")
