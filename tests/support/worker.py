"""A real `dvcr worker` in its own processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import eventually

_WORKER = "from dvcr.cli.main import app; from importer import commands; commands.register(app); app()"


class Worker:
    """`dvcr worker` against the given broker, registry and scratch folder; a context manager."""

    def __init__(self, broker_url: str, registry_url: str, scratch: Path, **settings: object) -> None:
        self.scratch = scratch
        self._environment = {
            "DVCR__BROKER__URL": broker_url,
            "DVCR__CLIENT__URL": registry_url,
            "DVCR__IMPORTER__SCRATCH_DIR": str(scratch),
            "DVCR__IMPORTER__SOURCE_ADDRESSES": "any",  # tests' servers are on loopback
            "DVCR__LOG__LEVEL": "info",
            **{f"DVCR__{key.upper()}": str(value) for key, value in settings.items()},
        }
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """Process id of the worker's parent process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it and wait until it takes jobs."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, "worker"],
            env=os.environ | self._environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "worker ready\n"
        return self

    def children(self) -> list[int]:
        """Process ids of the pool's children."""
        return children(self.pid)

    def kill(self) -> None:
        """kill -9 the worker and all its children at once, as a machine that dies does."""
        assert self._process is not None
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """End it with SIGTERM; its exit code."""
        assert self._process is not None
        group = self.pid
        self._process.terminate()
        code = self._process.wait(30)
        eventually(lambda: not _alive(group), "all processes of the worker are gone")
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._process is not None
        try:
            if self._process.poll() is None:
                self.stop()
        finally:
            if _alive(self._process.pid):
                os.killpg(self._process.pid, signal.SIGKILL)
            if self._process.stdout:
                self._process.stdout.close()


def children(pid: int) -> list[int]:
    """Direct children of a process."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
