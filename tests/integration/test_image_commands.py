"""`dvcr image` as a user runs it."""

import hashlib
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.support.file_server import serving
from tests.support.image_command import ImageCommand
from tests.support.images import build_image
from tests.support.registry import RegistryServer

MIB = 2**20
RAW = random.Random(5).randbytes(5 * MIB) + bytes(7 * MIB)


@pytest.fixture
def dvcr(registry_server: RegistryServer, tmp_path: Path) -> ImageCommand:
    return ImageCommand(registry_server.url, tmp_path / "scratch")


def test_import_ls_inspect_export_rm(dvcr: ImageCommand, tmp_path: Path) -> None:
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


def test_errors_are_one_line(dvcr: ImageCommand, tmp_path: Path) -> None:
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


def test_export_to_standard_output(dvcr: ImageCommand, tmp_path: Path) -> None:
    with serving(build_image(tmp_path, RAW, "qcow2")) as server:
        dvcr.ok("import", server.url, "cli/stdout")
    done = dvcr.run_bytes("export", "cli/stdout", "-")
    assert (done.returncode, done.stdout == RAW) == (0, True)
    packed = dvcr.run_bytes("export", "cli/stdout", "-", "-f", "qcow2", "--compress", "zstd")
    (tmp_path / "x.qcow2").write_bytes(packed.stdout)
    (tmp_path / "x.raw").write_bytes(RAW)
    subprocess.run(["qemu-img", "compare", "-q", tmp_path / "x.raw", tmp_path / "x.qcow2"], check=True)
    assert list(dvcr.scratch.iterdir()) == []

    holes = tmp_path / "holes.raw"
    with holes.open("wb") as file:
        dvcr.run_into(file, "export", "cli/stdout", "-")
    assert holes.read_bytes() == RAW
    assert holes.stat().st_blocks * 512 < len(RAW)


def test_output_that_cannot_be_written_is_one_line(dvcr: ImageCommand, tmp_path: Path) -> None:
    with serving(build_image(tmp_path, RAW, "qcow2")) as server:
        dvcr.ok("import", server.url, "cli/unwritten")
    with Path("/dev/full").open("wb") as full:
        done = dvcr.run_into(full, "export", "cli/unwritten", "-")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "standard output: No space left on device" in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = dvcr.run_into(pipe, "export", "cli/unwritten", "-")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "reader of the output left" in done.stderr
