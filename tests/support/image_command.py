"""`dvcr image` as a user runs it, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import IO

_DVCR = "from dvcr.cli import main; from importer import commands; commands.register(main.app); main.build_app = lambda: main.app; main.main()"  # noqa: E501


class ImageCommand:
    """The command, against a registry."""

    def __init__(self, registry_url: str, scratch: Path, **environment: str) -> None:
        self.scratch = scratch
        self._environment = {
            "DVCR__CLIENT__URL": registry_url,
            "DVCR__IMPORTER__SCRATCH_DIR": str(scratch),
        } | environment

    def run_bytes(self, *arguments: object, stdout: int | IO[bytes] = PIPE) -> subprocess.CompletedProcess[bytes]:
        """`dvcr image` with these arguments, and whatever became of it."""
        with self.started(*arguments, stdout=stdout) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def started(self, *arguments: object, stdout: int | IO[bytes] = PIPE) -> subprocess.Popen[bytes]:
        """`dvcr image` with these arguments, under way."""
        command = [sys.executable, "-c", _DVCR, "image", *map(str, arguments)]
        return subprocess.Popen(command, env=os.environ | self._environment, stdout=stdout, stderr=PIPE)

    def run_into(self, stdout: IO[bytes], *arguments: object) -> subprocess.CompletedProcess[str]:
        """As `run`, with standard output to that file."""
        done = self.run_bytes(*arguments, stdout=stdout)
        return subprocess.CompletedProcess(done.args, done.returncode, "", done.stderr.decode())

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """As `run_bytes`, decoded."""
        done = self.run_bytes(*arguments)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *arguments: object) -> str:
        """What a run prints that must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout
