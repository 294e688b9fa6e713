"""The parent of one container's process, run as a script of its own. Standard library only, so that it starts fast.

It outlives the node agent: a container's output and exit status are kept whatever happens to the agent.

    agent ──starts──▶ shim (own session) ──starts──▶ the container's process (own session)

Called with the folder of one run, it reads `run.json` there (`process.Run`), holds the lock on the descriptor that it
inherited for as long as it lives, and writes `started.json` once the process runs and `exit.json` as its last act.
SIGTERM is passed on to the process; SIGQUIT kills it. When the process has ended, everything that it started is killed.

The log has the lines of the Container Runtime Interface, `<time> stdout|stderr F|P <text>` (P: the text has no end of
line), and is bounded: `log` becomes `log.1` when it is full.
"""

import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
START_ERROR_CODE = 128
MAX_MESSAGE_BYTES = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    folder = Path(sys.argv[1])
    run = json.loads((folder / "run.json").read_text())
    # The read end is polled; the handlers only have to exist for their signals to be written there.
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Processes whose parent died become ours, so that none of them is overlooked at the end.
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if run["cgroup"]:
        _enter(Path(run["cgroup"]))
    started_at = _now()
    try:
        process = subprocess.Popen(
            run["argv"],
            cwd=run["cwd"],
            env=run["env"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
        )
    except OSError as exc:
        message = f"cannot start {run['argv'][0]!r}: {exc.strerror}"
        _write_json(folder / "exit.json", _end(started_at, START_ERROR_CODE, message, reason="StartError"))
        return
    _write_json(folder / "started.json", {"shim_pid": os.getpid(), "pid": process.pid, "started_at": started_at})
    log = Log(Path(run["log"]), run["log_max_bytes"])
    code = _attend(process, log, wake_read)
    _write_json(folder / "exit.json", _end(started_at, code, _message(Path(run["termination_log"]))))


def _enter(cgroup: Path) -> None:
    try:
        (cgroup / "cgroup.procs").write_text("0")
    except OSError as exc:
        # The container matters more than its share of the processors.
        print(f"cannot enter {cgroup}: {exc.strerror}", file=sys.stderr)


def _attend(process: "subprocess.Popen[bytes]", log: "Log", wake_read: int) -> int:
    """Carry output and signals until the process has ended and all that it left behind; returns its exit code."""
    assert process.stdout is not None
    assert process.stderr is not None
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ, "stdout")
    selector.register(process.stderr, selectors.EVENT_READ, "stderr")
    selector.register(wake_read, selectors.EVENT_READ, "wake")
    code: int | None = None
    while code is None:
        for key, _ in selector.select():
            if key.data == "wake":
                for number in os.read(wake_read, 512):
                    if number in (signal.SIGTERM, signal.SIGQUIT):
                        with suppress(ProcessLookupError):
                            os.kill(process.pid, signal.SIGKILL if number == signal.SIGQUIT else number)
            elif data := os.read(key.fd, 2**16):
                log.write(key.data, data)
            else:
                selector.unregister(key.fileobj)
        code = _reap(process.pid)
    _kill_descendants()
    # Nobody writes any more: what is left in the pipes is all that there will be.
    for stream, name in ((process.stdout, "stdout"), (process.stderr, "stderr")):
        os.set_blocking(stream.fileno(), False)
        with suppress(BlockingIOError):
            while data := os.read(stream.fileno(), 2**16):
                log.write(name, data)
    return code


def _reap(main_pid: int) -> int | None:
    """Collect the children that have ended; the exit code of the main one, if it is among them."""
    code = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == main_pid:
                result = os.waitstatus_to_exitcode(status)
                code = 128 - result if result < 0 else result
    return code


def _kill_descendants() -> None:
    """Kill every process below this one; as their subreaper it inherits those whose parents are killed first."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while pids := children.read_text().split():
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _message(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_MESSAGE_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _end(started_at: str, code: int, message: str, reason: str = "") -> dict[str, Any]:
    reason = reason or ("Completed" if code == 0 else "Error")
    return {
        "exit_code": code, "reason": reason, "message": message, "started_at": started_at, "finished_at": _now(),
    }  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    # Replaced at once, so that no reader ever sees half of it.
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.replace(path)


class Log:
    """Appends a container's output to a log of at most two files of about `max_bytes` each."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._open()

    def write(self, stream: str, data: bytes) -> None:
        """Append a piece of output. A full disk loses output, never the container."""
        prefix = f"{_now()} {stream} ".encode()
        *whole, rest = data.split(b"\n")
        lines = b"".join(prefix + b"F " + line + b"\n" for line in whole)
        if rest:
            lines += prefix + b"P " + rest + b"\n"
        if self._size + len(lines) > self._max_bytes and self._size:
            os.close(self._fd)
            self._path.replace(self._path.with_suffix(".1"))
            self._open()
        with suppress(OSError):
            self._size += os.write(self._fd, lines)

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size


if __name__ == "__main__":
    main()
