"""`dvcr image` as a user runs it."""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.file_server import serving
from tests.support.images import build_image
from tests.support.registry import RegistryServer

MIB = 2**20
RAW = random.Random(5).randbytes(5 * MIB) + bytes(7 * MIB)
_DVCR = "from dvcr.cli import main; from importer import commands; commands.register(main.app); main.build_app = lambda: main.app; main.main()"  # noqa: E501


@pytest.fixture
def dvcr(registry_server: RegistryServer, tmp_path: Path) -> "Dvcr":
    return Dvcr(registry_server.url, tmp_path / "scratch")


class Dvcr:
    """The command, against a registry."""

    def __init__(self, registry_url: str, scratch: Path) -> None:
        self.scratch = scratch
        self._environment = {"DVCR__CLIENT__URL": registry_url, "DVCR__IMPORTER__SCRATCH_DIR": str(scratch)}

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _DVCR, "image", *map(str, arguments)],
            env=os.environ | self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def ok(self, *arguments: object) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


def test_import_ls_inspect_export_rm(dvcr: Dvcr, tmp_path: Path) -> None:
    image = build_image(tmp_path, RAW, "qcow2")
    sha256 = hashlib.sha256(image).hexdigest()
    with serving(image) as server:
        imported = json.loads(dvcr.ok("import", server.url, "cli/debian:12", "--sha256", sha256, "--json"))
    assert imported["virtualSize"] == len(RAW)
    assert imported["source"]["checksums"] == {"sha256": sha256}
    assert list(dvcr.scratch.iterdir()) == []

    (row,) = json.loads(dvcr.ok("ls", "cli/debian", "--json"))
    assert (row["repository"], row["tag"], row["source"]["format"]) == ("cli/debian", "12", "qcow2")
    assert "cli/debian" in dvcr.ok("ls")
    assert json.loads(dvcr.ok("inspect", "cli/debian:12", "--json"))["digest"] == imported["digest"]
    assert imported["digest"] in dvcr.ok("inspect", "cli/debian:12")

    raw, back = tmp_path / "out.raw", tmp_path / "out.vmdk"
    dvcr.ok("export", "cli/debian:12", raw)
    assert raw.read_bytes() == RAW
    dvcr.ok("export", f"cli/debian@{imported['digest']}", back)
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "vmdk", raw, back], check=True)

    assert imported["digest"] in dvcr.ok("rm", "cli/debian:12")
    assert json.loads(dvcr.ok("ls", "cli/debian", "--json")) == []


def test_errors_are_one_line(dvcr: Dvcr, tmp_path: Path) -> None:
    with serving(b"<html>no</html>" * 1000) as server:
        page = dvcr.run("import", server.url, "cli/page")
        server.statuses = [404]
        missing = dvcr.run("import", server.url, "cli/missing")
        bad_name = dvcr.run("import", server.url, "NOT A NAME")
    for done, word in (
        (page, "HTML"),
        (missing, "404"),
        (bad_name, "NOT A NAME"),
        (dvcr.run("inspect", "cli/none"), "cli/none"),
        (dvcr.run("rm", "cli/none"), "cli/none"),
        (dvcr.run("export", "cli/none", tmp_path / "x.doc"), "raw, qcow2"),
    ):
        assert done.returncode == 1
        assert "error:" in done.stderr
        assert word in done.stderr
        assert "Traceback" not in done.stderr
    assert json.loads(dvcr.ok("ls", "cli/page", "--json")) == []
