"""The main job, as a user would do it: from the URL of an image to a machine that runs, with the `dvcr` commands.

python -m demo.run                          a small guest, built here
python -m demo.run --image https://...      an image of yours (a cloud image with cloud-init)
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from demo.disk import GuestError
from demo.guest import build
from demo.processes import processes_of
from demo.server import serve_folder

ROOT = Path(__file__).parent.parent
DVCR = Path(sys.executable).parent / "dvcr"
MARKER = "DVCR-GUEST marker=hello-from-user-data"
UP_TIMEOUT_S, BOOT_TIMEOUT_S, STOP_TIMEOUT_S = 90.0, 300.0, 60.0

console = Console(soft_wrap=True, highlight=False)


class DemoError(Exception):
    """A step of the demo failed; the message says which and where to look."""


def main() -> int:
    """Run the demo; 0 if every step came out as it should."""
    parser = argparse.ArgumentParser(description="Run DVCR's main job on this machine.")
    parser.add_argument("--image", default="", help="URL of a bootable cloud image to use instead of the small guest")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "demo", help="folder for everything it makes")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    timings: dict[str, float] = {}
    try:
        with _image(options.image, options.work, timings) as (url, sha256):
            manifest = _quickstart(options.work, url, sha256)
            with _up(options.work / "data", timings) as kubeconfig:
                _main_job(manifest, {**os.environ, "KUBECONFIG": str(kubeconfig)}, timings)
    except (DemoError, GuestError) as exc:
        console.print(f"[bold red]the demo failed:[/] {exc}")
        return 1
    _print_timings(timings)
    return 0


@contextlib.contextmanager
def _image(url: str, work: Path, timings: dict[str, float]) -> Iterator[tuple[str, str]]:
    """URL and sha256 of the image; the sha256 of a user's own image is not known."""
    if url:
        yield url, ""
        return
    with _step("Building a small bootable Linux disk", "guest disk built", timings):
        guest = build(work / "images" / "guest.qcow2")
    with guest.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with serve_folder(guest.parent) as server:
        yield f"{server}/{guest.name}", sha256


def _quickstart(work: Path, url: str, sha256: str) -> Path:
    """The example's manifest with the URL and checksum of the image."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "examples" / "quickstart.yaml").read_text()))
    http = documents[0]["spec"]["dataSource"]["http"]
    http["url"] = url
    http["checksum"] = {"sha256": sha256}
    if not sha256:
        del http["checksum"]
    manifest = work / "quickstart.yaml"
    manifest.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return manifest


@contextlib.contextmanager
def _up(data: Path, timings: dict[str, float]) -> Iterator[Path]:
    """A running `dvcr up`; gives the kubeconfig. Stops it with Ctrl-C's signal and checks that nothing is left."""
    log = data.parent / "up.log"
    console.print(f"[bold]$ dvcr up --data {os.path.relpath(data)}[/] [dim](in the background)[/]")
    with log.open("w") as output:
        product = subprocess.Popen([DVCR, "up", "--data", data], stdout=output, stderr=output, start_new_session=True)
    try:
        with _step("Starting DVCR", "DVCR up", timings):
            _wait_until_up(product, log)
        console.print(log.read_text().split("\n\n")[0])
        yield data / "kubeconfig"
    finally:
        console.print("[bold]$ kill -INT[/] [dim](Ctrl-C in the terminal of dvcr up)[/]")
        with _step("Stopping DVCR", "DVCR stopped", timings):
            product.send_signal(signal.SIGINT)
            try:
                product.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                product.kill()
                raise DemoError(f"dvcr up did not stop within {STOP_TIMEOUT_S:.0f} s; see {log}") from None
    left = processes_of(data)
    if product.returncode != 0 or left:
        raise DemoError(f"dvcr up ended with status {product.returncode} and left {left or 'nothing'}; see {log}")


def _main_job(manifest: Path, environment: dict[str, str], timings: dict[str, float]) -> None:
    started = time.monotonic()
    _dvcr(environment, "apply", "-f", manifest)
    _dvcr(environment, "wait", "cvmi", "quickstart", "--for", "phase=Ready", "--timeout", "15m")
    timings["image Ready after apply"] = time.monotonic() - started
    _dvcr(environment, "wait", "vmd", "quickstart-root", "--for", "phase=Ready", "--timeout", "1m")
    timings["disk Ready after apply"] = time.monotonic() - started
    _dvcr(environment, "wait", "vm", "quickstart", "--for", "phase=Running", "--timeout", "2m")
    timings["machine Running after apply"] = time.monotonic() - started
    _wait_for_marker(environment)
    timings["guest's marker on its console after apply"] = time.monotonic() - started
    _dvcr(environment, "get", "cvmi,vmd,vm")
    stop = time.monotonic()
    _dvcr(environment, "apply", "-f", ROOT / "examples" / "stop.yaml")
    _dvcr(environment, "wait", "vmop", "quickstart-stop", "--for", "phase=Completed", "--timeout", "2m")
    timings["machine stopped by the operation"] = time.monotonic() - stop
    _dvcr(environment, "get", "cvmi,vmd,vm,vmop")


def _wait_for_marker(environment: dict[str, str]) -> None:
    """Follow the machine's serial console until the guest prints what the user data told it to."""
    console.print("[bold]$ dvcr logs -f vm/quickstart[/]")
    with subprocess.Popen(
        [DVCR, "logs", "-f", "vm/quickstart"], env=environment, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as logs:
        watchdog = threading.Timer(BOOT_TIMEOUT_S, logs.kill)
        watchdog.start()
        try:
            for line in logs.stdout or ():
                console.print("  " + line.rstrip(), style="dim", markup=False)
                if MARKER in line:
                    return
        finally:
            watchdog.cancel()
            logs.terminate()
    raise DemoError(f"the guest did not print {MARKER!r} within {BOOT_TIMEOUT_S:.0f} s")


def _dvcr(environment: dict[str, str], *arguments: str | Path) -> None:
    shown = " ".join(os.path.relpath(a) if isinstance(a, Path) else a for a in arguments)
    console.print(f"[bold]$ dvcr {shown}[/]")
    if subprocess.run([DVCR, *arguments], env=environment, check=False).returncode != 0:
        raise DemoError(f"`dvcr {shown}` failed; the logs are in build/demo/data/logs")


@contextlib.contextmanager
def _step(doing: str, done: str, timings: dict[str, float]) -> Iterator[None]:
    started = time.monotonic()
    with console.status(doing):
        yield
    timings[done] = time.monotonic() - started


def _wait_until_up(product: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + UP_TIMEOUT_S
    while "DVCR is up" not in log.read_text():
        if product.poll() is not None or time.monotonic() > deadline:
            raise DemoError(f"dvcr up did not start:\n{log.read_text()}")
        time.sleep(0.1)


def _print_timings(timings: dict[str, float]) -> None:
    table = Table("step", "seconds", title="Timings")
    table.columns[1].justify = "right"
    for step, seconds in timings.items():
        table.add_row(step, f"{seconds:.1f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
