"""A container's process under its shim, without an agent."""

from pathlib import Path

import pytest

from controller.local.node import logs
from controller.local.node.process import Process, Run
from dvcr.errors import StorageError
from tests.support.waiting import eventually


def run_of(folder: Path, *argv: str) -> Run:
    return Run(argv, {"PATH": "/usr/bin:/bin"}, "/", str(folder / "log"), 10_000, str(folder / "message"))


def test_a_process_is_found_again_by_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    Process(folder).start(run_of(folder, "sleep", "1000"))
    found = Process(folder)
    eventually(lambda: found.started_at, "started")
    assert found.alive
    assert found.exit() is None
    found.terminate()
    eventually(lambda: not found.alive, "ended")
    end = found.exit()
    assert end is not None
    assert (end.exit_code, end.reason) == (143, "Error")
    found.kill()  # too late is no error


def test_what_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "0"
    with pytest.raises(StorageError, match="cannot start a process"):
        Process(folder).start(run_of(folder, "true"))
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_output_without_end_of_line_and_binary_output_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    process = Process(folder)
    process.start(run_of(folder, "printf", r"login: \377\r\n\033[1m"))
    eventually(lambda: not process.alive, "ended")
    end = process.exit()
    assert end is not None
    assert end.exit_code == 0
    assert b"".join(logs.read(folder / "log")) == b"login: \xff\r\n\x1b[1m"
