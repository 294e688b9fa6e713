"""One run of a container's process: start it, find it again after a restart of the agent, signal it, learn its end.

A run is a folder. Whether its process is alive is told by a lock that the shim holds on the folder's `lock` file from
before the first instruction to its end: it needs no process ids, which the system uses again.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from controller.local.node.clock import timestamp
from dvcr.errors import StorageError

RUN_ID_VARIABLE = "DVCR_RUN_ID"
_SHIM = Path(__file__).with_name("shim.py")


@dataclass(frozen=True)
class Run:
    """What the shim is to run; kept as `run.json`."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    log: str
    log_max_bytes: int
    termination_log: str
    backoff_s: float = 0
    """How long the start of this run was held back."""
    cgroup: str = ""
    """Folder of the cgroup that it runs in; empty for the agent's own."""


@dataclass(frozen=True)
class Exit:
    """How a run ended. `started_at` and `finished_at` are RFC 3339, UTC."""

    exit_code: int
    reason: str
    message: str
    started_at: str
    finished_at: str


class Process:
    """The process of the run in `folder`. Several agents may look at it, one at a time may start it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, run: Run) -> None:
        """Start the run; its end, also a failure to start, is told by `exit`. Call once in the life of the folder.

        Raises StorageError, leaving nothing behind, when the folder cannot be made or the system has no more processes.
        """
        try:
            self._start(run)
        except OSError as exc:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise StorageError(f"cannot start a process from {self.folder}: {exc.strerror}") from exc

    def _start(self, run: Run) -> None:
        self.folder.mkdir(parents=True)
        run_id = self.folder.resolve().as_posix()
        stated = asdict(run) | {"env": {**run.env, RUN_ID_VARIABLE: run_id}}
        (self.folder / "run.json").touch(mode=0o600)
        (self.folder / "run.json").write_text(json.dumps(stated))
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with (self.folder / "shim.err").open("wb") as errors:
                self._child = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_SHIM), str(self.folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=(lock,),
                    start_new_session=True,
                )
        finally:
            os.close(lock)

    @property
    def alive(self) -> bool:
        """Whether the process, or anything that it left behind, still runs."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None
        try:
            lock = os.open(self.folder / "lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    @property
    def started_at(self) -> str:
        """When the process began, empty while it has not."""
        started = self._read("started.json")
        return str(started["started_at"]) if started else ""

    @property
    def backoff_s(self) -> float:
        """How long the start of this run was held back."""
        run = self._read("run.json")
        return float(run["backoff_s"]) if run else 0

    def exit(self) -> Exit | None:
        """How the run ended; None while it runs.

        A run whose shim was killed (or whose machine went down) has no record: what it left is killed, and the exit
        code is 137, as Kubernetes has it for a container whose status is unknown.
        """
        if self.alive:
            return None
        record = self._read("exit.json")
        if record is None:
            self._kill_strays()
            message = "the process was lost: its supervisor was killed or the machine went down"
            record = asdict(Exit(137, "ContainerStatusUnknown", message, self.started_at, timestamp()))
            (self.folder / "exit.json").write_text(json.dumps(record))
        return Exit(**record)

    def wait_fd(self) -> int | None:
        """A descriptor that becomes readable when the run ends, for the caller to close; None if it has ended."""
        pid = self._shim_pid()
        if pid is None:
            return None
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        if self.alive:
            return descriptor
        os.close(descriptor)
        return None

    def terminate(self) -> None:
        """Ask the process to end (SIGTERM). Idempotent."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process and everything that it started. Idempotent."""
        self._signal(signal.SIGQUIT)

    def _signal(self, number: signal.Signals) -> None:
        # The descriptor names one process for good; if the lock is held after it was opened, that is our shim.
        descriptor = self.wait_fd()
        if descriptor is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            os.close(descriptor)

    def _shim_pid(self) -> int | None:
        if self._child is not None:
            return self._child.pid
        started = self._read("started.json")
        return int(started["shim_pid"]) if started else None

    def _kill_strays(self) -> None:
        mark = f"{RUN_ID_VARIABLE}={self.folder.resolve().as_posix()}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):  # it ended meanwhile, or is not ours to see
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGKILL)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            value: dict[str, Any] = json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return None
        return value
