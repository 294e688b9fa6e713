"""The only place that runs qemu-img: confined, bounded, watched, and never left behind.

qemu-img reaches the bytes only through sockets that it inherits. What it is kept from otherwise is in `confine.py`:

    always      limits on memory, CPU time, file size and open files; no new privileges; killed when this process dies
    namespaces  no network, no shared memory           landlock      no file but its own program and libraries
    seccomp     no sockets, no tracing, no mounting    unprivileged  the user nobody, where this process is root

Which of these layers the machine allows is probed once and logged.
"""

import functools
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from dvcr.errors import ConfigError, ImageError

LAYERS = ("namespaces", "landlock", "unprivileged", "seccomp")
MEMORY_BYTES = 2 * 2**30
OPEN_FILES = 64
MAX_ERROR_BYTES = 8 * 1024
TICK_S = 0.2
END_TIMEOUT_S = 10.0
# A conversion slower than this per CPU second is no conversion; the base is for small disks.
CPU_BASE_S = 300
CPU_BYTES_PER_S = 5 * 2**20

_CONFINE = Path(__file__).with_name("confine.py")
_READABLE = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")

log = structlog.get_logger(__name__)


@functools.cache
def sandbox_layers() -> tuple[str, ...]:
    """The layers of the sandbox that this machine allows; probed once in a process, logged with what is missing."""
    wanted = [name for name in LAYERS if name != "unprivileged" or os.geteuid() == 0]
    probe = subprocess.run(
        _confined([], _limits(0, 0), wanted, None), capture_output=True, text=True, timeout=30, check=False, cwd="/"
    )
    if probe.returncode:
        raise ConfigError(f"cannot probe the sandbox for qemu-img: {probe.stderr[-500:]}", reason="SandboxFailed")
    applied = tuple(json.loads(probe.stdout))
    missing = [name for name in wanted if name not in applied]
    if missing:
        log.warning("this machine does not allow the whole sandbox for qemu-img", applied=applied, missing=missing)
    else:
        log.debug("qemu-img runs in the sandbox", layers=applied)
    return applied


@dataclass(frozen=True)
class QemuImg:
    """How qemu-img is run."""

    binary: str = "qemu-img"
    """Its name on the PATH, or its path."""
    cpu_base_s: int = CPU_BASE_S
    """Processor time that it gets for the smallest disk; more for larger ones."""

    def convert(
        self,
        arguments: Sequence[str],
        *,
        sockets: Sequence[int] = (),
        virtual_size_bytes: int,
        writable: Path | None = None,
        on_tick: Callable[[], None],
    ) -> None:
        """Run `qemu-img convert` with `arguments` to its end.

        It inherits the file descriptors `sockets`. `writable` is a folder that it may write to; it then keeps its user,
        who owns the folder. `on_tick` is called several times a second, and what it raises stops qemu-img. Raises
        ImageError `ConversionFailed` with what qemu-img said, retryable where it was killed. The process is gone when
        this returns or raises.
        """
        path = shutil.which(self.binary)
        if path is None:
            raise ConfigError(f"{self.binary} was not found; install it (Debian: apt-get install qemu-utils)")
        layers = [name for name in sandbox_layers() if name != "unprivileged" or writable is None]
        size_limit = 0 if writable is None else 2 * virtual_size_bytes + 2**30
        limits = _limits(self.cpu_base_s + virtual_size_bytes // CPU_BYTES_PER_S, size_limit)
        process = subprocess.Popen(
            _confined([path, "convert", *arguments], limits, layers, writable),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=sockets,
            cwd="/",
        )
        try:
            said = _watch(process, on_tick)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stderr is not None
            process.stderr.close()
        if process.returncode:
            raise ImageError(
                _explain(process.returncode, said),
                reason="ConversionFailed",
                # Only the system, short of memory, and its administrator send that; neither means the image.
                retryable=process.returncode == -signal.SIGKILL,
            )


def refuse_idle(idle_s: float, timeout_s: float) -> None:
    """For `on_tick`: ImageError `ConversionFailed` where qemu-img has asked its sockets for nothing for so long."""
    if idle_s > timeout_s:
        raise ImageError(
            f"qemu-img has asked for nothing for {idle_s:.0f} s and was stopped", reason="ConversionFailed"
        )


def _limits(cpu_s: int, file_size_bytes: int) -> dict[str, int]:
    return {
        "AS": MEMORY_BYTES,
        "CPU": cpu_s or CPU_BASE_S,
        "FSIZE": file_size_bytes,
        "NOFILE": OPEN_FILES,
        "CORE": 0,
    }


def _confined(
    program: Sequence[str], limits: dict[str, int], layers: Sequence[str], writable: Path | None
) -> list[str]:
    readable = [*_READABLE, *({str(Path(p).resolve().parent) for p in program[:1]} - {"/usr/bin"})]
    config = {
        "parent_pid": os.getpid(),
        "limits": limits,
        "layers": layers,
        "readable": readable,
        "writable": [] if writable is None else [str(writable)],
        # A locale or a tuned allocator of ours is none of its business.
        "environment": {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "MALLOC_ARENA_MAX": "2"},
    }
    return [sys.executable, "-I", "-S", "-B", str(_CONFINE), json.dumps(config), *program]


def _watch(process: subprocess.Popen[bytes], on_tick: Callable[[], None]) -> bytes:
    """Wait for the end of `process`; the first and last of what it wrote to standard error."""
    assert process.stderr is not None
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        closed = False
        while not closed:
            if selector.select(TICK_S):
                chunk = os.read(process.stderr.fileno(), 4096)
                closed = not chunk
                said = said + chunk if len(said) + len(chunk) <= MAX_ERROR_BYTES else said[:4096] + chunk
            on_tick()
    deadline = time.monotonic() + END_TIMEOUT_S
    while process.poll() is None:
        on_tick()
        if time.monotonic() > deadline:
            raise ImageError("qemu-img closed its output but does not end", reason="ConversionFailed")
        time.sleep(0.01)
    return said


def _explain(code: int, said: bytes) -> str:
    text = " ".join(said.decode(errors="replace").split())
    text = "".join(c if c.isprintable() else "?" for c in text)[:500]
    if code == -signal.SIGXCPU:
        how = "was stopped, because it took more processor time than a disk of that size may take"
    elif code == -signal.SIGKILL:
        how = "was killed, as the system does where memory is short: see its log and the limit on the importer's memory"
    elif code < 0:
        how = f"was killed by signal {-code}"
    else:
        how = f"failed with code {code}"
    return f"qemu-img {how}" + (f": {text}" if text else "")
