"""`dvcr serve --workers N`: processes that listen on one port, and their parent, which replaces those that die."""

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from prometheus_client import multiprocess

from dvcr.errors import ConfigError, DvcrError

log = structlog.get_logger(__name__)

_STOP = {signal.SIGTERM, signal.SIGINT}
_SIGNALS = _STOP | {signal.SIGCHLD}
# A worker that dies sooner than this waits before it is replaced, twice as long each time.
_STEADY_S = 5.0
_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Worker:
    """What a worker knows of being one."""

    index: int
    """Number of the worker; its replacement has the same."""
    parent: int
    """File descriptor that becomes readable when the parent has died."""
    ready: Callable[[], None]
    """To be called once it listens."""


@dataclass
class _Slot:
    index: int
    pid: int = 0
    started: float = 0
    pause_s: float = 0
    due: float | None = field(default=0)
    """When to start a worker here; None while one runs."""


def run_workers(count: int, scheme: str, host: str, port: int, work: Callable[[Worker, int], None]) -> None:
    """Run `work(worker, port)` in `count` processes until SIGTERM or SIGINT, then let them drain; SIGTERM ends `work`.

    Port 0 becomes a free one. Prints the address once all are ready. Raises ConfigError if the address cannot be had or
    a worker does not get ready; the worker says why.
    """
    reserved = _reserve(host, port)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    alive_read, alive_write = os.pipe()  # no worker keeps the writing end: it closes with the parent
    slots = [_Slot(index) for index in range(count)]

    def start(slot: _Slot, ready: Callable[[], None]) -> None:
        slot.started, slot.due = time.monotonic(), None
        slot.pid = os.fork()
        if slot.pid:
            return
        os.close(alive_write)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os._exit(_work(lambda: work(Worker(slot.index, alive_read, ready), reserved.getsockname()[1])))

    try:
        if _start_all(slots, start):
            print(f"listening on {scheme}://{host}:{reserved.getsockname()[1]}", flush=True)
            _keep(slots, start)
    finally:
        for slot in slots:
            if slot.pid:
                os.kill(slot.pid, signal.SIGTERM)
        for slot in slots:
            if slot.pid:
                os.waitpid(slot.pid, 0)
                slot.pid = 0
        os.close(alive_write)
        os.close(alive_read)
        reserved.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _start_all(slots: list[_Slot], start: Callable[[_Slot, Callable[[], None]], None]) -> bool:
    """Start one after the other, so that what stops all of them is said once. False if a signal asks to stop."""
    for slot in slots:
        read, write = os.pipe()

        def ready(write: int = write) -> None:
            os.write(write, b".")
            os.close(write)

        start(slot, ready)
        os.close(write)
        with os.fdopen(read, "rb", buffering=0) as reader:
            while not select.select([reader], [], [], 0.1)[0]:
                if signal.sigtimedwait(_STOP, 0):
                    return False
            if not reader.read(1):
                raise ConfigError("a worker of the registry did not get ready")
    return True


def _keep(slots: list[_Slot], start: Callable[[_Slot, Callable[[], None]], None]) -> None:
    """Replace what dies until a signal asks to stop."""
    while True:
        now = time.monotonic()
        for slot in slots:
            if slot.due is not None and slot.due <= now:
                start(slot, lambda: None)
        pauses = [max(0.0, slot.due - now) for slot in slots if slot.due is not None]
        found = signal.sigtimedwait(_SIGNALS, min(pauses, default=3600))
        if found is not None and found.si_signo != signal.SIGCHLD:
            return
        _reap(slots)


def _reap(slots: list[_Slot]) -> None:
    """Note which workers have ended, and when to replace them."""
    for slot in slots:
        if not slot.pid:
            continue
        pid, status = os.waitpid(slot.pid, os.WNOHANG)
        if not pid:
            continue
        lived_s = time.monotonic() - slot.started
        slot.pause_s = 0 if lived_s > _STEADY_S else min(max(0.5, 2 * slot.pause_s), _LONGEST_PAUSE_S)
        log.error("worker died", worker=slot.index, pid=pid, code=os.waitstatus_to_exitcode(status))
        # Its gauges would be counted for ever.
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
        slot.pid, slot.due = 0, time.monotonic() + slot.pause_s


def _reserve(host: str, port: int) -> socket.socket:
    """A socket that holds the port without listening; workers bind to it beside it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        reserved = socket.socket(family, kind, protocol)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
    except OSError as exc:
        raise ConfigError(f"cannot listen on {host}:{port}: {exc.strerror}") from exc
    return reserved


def _work(work: Callable[[], None]) -> int:
    try:
        work()
    except DvcrError as exc:
        print(f"error: {exc.message}", file=sys.stderr)
        return 1
    except BaseException:
        log.exception("worker failed")
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
