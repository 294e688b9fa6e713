"""Keeps a set of processes running, and stops all of them.

A process that ends is started again after a back-off that doubles up to 10 s. Every process has its own session, so
that a Ctrl-C in the terminal reaches only the supervisor, which then stops them in order; and the kernel tells it to
end should the supervisor itself be killed.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

from controller.local.up.plan import LOOPBACK, Plan, ProcessSpec
from dvcr.errors import DvcrError

READY_TIMEOUT_S = 60.0
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 10.0
STEADY_AFTER_S = 30.0
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class StartError(DvcrError):
    """A process did not become ready; the message ends with the last lines of its log."""

    default_reason = "StartFailed"


class Supervisor:
    """Runs the processes of a `Plan`; `say(name, text)` is told of what happens to them."""

    def __init__(self, plan: Plan, log_dir: Path, say: Callable[[str, str], None]) -> None:
        self._plan = plan
        self._log_dir = log_dir
        self._say = say
        self._environment = {**os.environ, **plan.environment}
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Start the processes in order, each once the one before is ready. Raises StartError; then `stop` is due."""
        for spec in self._plan.processes:
            process = await self._spawn(spec)
            await self._wait_ready(spec, process)
            self._say(spec.name, "ready")
            self._keepers[spec.name] = asyncio.create_task(self._keep(spec, process))

    async def stop(self) -> None:
        """Stop every process in the plan's stop order: SIGTERM, then SIGKILL to its whole session."""
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        specs = {spec.name: spec for spec in self._plan.processes}
        for name in self._plan.stop_order:
            process = self._running.pop(name, None)
            if process is None:
                continue
            await _end(process, specs[name].stop_timeout_s)
            self._say(name, "stopped")

    async def _spawn(self, spec: ProcessSpec) -> asyncio.subprocess.Process:
        with self._log(spec).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self._running[spec.name] = process
        return process

    async def _wait_ready(self, spec: ProcessSpec, process: asyncio.subprocess.Process) -> None:
        if spec.ready_port is None:
            return
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not await _accepts(spec.ready_port):
                    if process.returncode is not None:
                        raise StartError(f"{spec.name} ended with status {process.returncode}\n{self._tail(spec)}")
                    await asyncio.sleep(0.05)
        except TimeoutError as exc:
            raise StartError(f"{spec.name} did not answer within {READY_TIMEOUT_S:.0f} s\n{self._tail(spec)}") from exc

    async def _keep(self, spec: ProcessSpec, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = FIRST_BACKOFF_S
        while True:
            started = loop.time()
            status = await process.wait()
            if loop.time() - started > STEADY_AFTER_S:
                backoff_s = FIRST_BACKOFF_S
            self._say(
                spec.name, f"ended with status {status}; starting again in {backoff_s:g} s, see {self._log(spec)}"
            )
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
            process = await self._spawn(spec)

    def _log(self, spec: ProcessSpec) -> Path:
        return self._log_dir / f"{spec.name}.log"

    def _tail(self, spec: ProcessSpec, lines: int = 15) -> str:
        with self._log(spec).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 16384))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def _end(process: asyncio.subprocess.Process, timeout_s: float) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
    # Whatever the process left behind in its session goes too.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
