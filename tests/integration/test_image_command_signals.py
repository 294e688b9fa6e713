"""What is left of a `dvcr image` that is ended half-way."""

import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.file_server import serving
from tests.support.image_command import ImageCommand
from tests.support.images import build_image
from tests.support.registry import RegistryServer
from tests.support.stalling_proxy import stalling_proxy
from tests.support.waiting import eventually

MIB = 2**20
RAW = random.Random(5).randbytes(9 * MIB)
ENDS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "code"), ENDS)
def test_an_import_leaves_nothing(number: int, code: int, registry_server: RegistryServer, tmp_path: Path) -> None:
    dvcr = ImageCommand(registry_server.url, tmp_path / "scratch")
    with serving(build_image(tmp_path, RAW, "vdi")) as server:
        server.gate.clear()
        server.gate_after = 8 * MIB
        with dvcr.started("import", server.url, "cli/ended") as process:
            try:
                eventually(lambda: server.sent_bytes >= 8 * MIB, "a download that waits")
                process.send_signal(number)
                _, said = process.communicate(timeout=30)
            finally:
                process.kill()
                server.gate.set()
    assert b"Traceback" not in said, said.decode()
    assert process.returncode == code
    assert list(dvcr.scratch.iterdir()) == []
    assert dvcr.run("inspect", "cli/ended").returncode == 1


@pytest.fixture
def stored(registry_server: RegistryServer, tmp_path: Path) -> ImageCommand:
    """The command, with the image `cli/kept` in the registry."""
    dvcr = ImageCommand(registry_server.url, tmp_path / "scratch")
    with serving(build_image(tmp_path, RAW, "qcow2")) as server:
        dvcr.ok("import", server.url, "cli/kept")
    return dvcr


@contextmanager
def exporting(registry_url: str, destination: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`dvcr image export` that waits for a registry which has fallen silent."""
    with stalling_proxy(registry_url.removeprefix("http://"), after_bytes=4 * MIB) as proxy:
        dvcr = ImageCommand(f"http://{proxy.address}", destination.parent)
        with dvcr.started("export", "cli/kept", destination) as process:
            try:
                assert proxy.silent.wait(30)
                yield process
            finally:
                process.kill()


@pytest.mark.parametrize("name", ["disk.raw", "disk.qcow2"])
@pytest.mark.parametrize(("number", "code"), ENDS)
def test_an_export_leaves_nothing(
    number: int, code: int, name: str, stored: ImageCommand, registry_server: RegistryServer, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with exporting(registry_server.url, folder / name) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert b"Traceback" not in said, said.decode()
    assert process.returncode == code
    assert list(folder.iterdir()) == []


def test_what_a_killed_export_leaves_goes_with_the_next(
    stored: ImageCommand, registry_server: RegistryServer, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    file = folder / "disk.raw"
    mine = folder / ".disk.raw.draft-of-mine"
    mine.mkdir()
    (mine / "notes").write_text("kept")
    with exporting(registry_server.url, file) as dead:
        dead.kill()
        dead.wait()
    (left,) = set(folder.iterdir()) - {mine}
    with exporting(registry_server.url, file) as other:
        (used,) = set(folder.iterdir()) - {mine}  # what was left is gone already
        assert used != left
        stored.ok("export", "cli/kept", file)
        assert set(folder.iterdir()) == {mine, file, used}  # what another export makes is left to it
        other.terminate()
        other.wait()
    assert file.read_bytes() == RAW
    assert set(folder.iterdir()) == {mine, file}
