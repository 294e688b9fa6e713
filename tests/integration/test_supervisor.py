"""The supervisor of `dvcr up` over small real processes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.local.up.plan import Plan, Ports, ProcessSpec
from controller.local.up.supervisor import StartError, Supervisor

DEADLINE_S = 20.0
PORTS = Ports(registry=0, uploader=0, api=0, redis=0)


def _script(name: str, code: str, stop_timeout_s: float = 10) -> ProcessSpec:
    return ProcessSpec(name, (sys.executable, "-c", code), stop_timeout_s=stop_timeout_s)


def _plan(folder: Path, *processes: ProcessSpec) -> Plan:
    order = tuple(reversed([p.name for p in processes]))
    return Plan(processes, {"FOLDER": str(folder)}, PORTS, folder / "kubeconfig", order)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


RECORD = (
    "import os, signal, pathlib; pathlib.Path(os.environ['FOLDER'], '{name}').open('a').write(f'{{os.getpid()}}\\n');"
)


def _pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_process_that_dies_is_started_again_and_stop_leaves_none(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []

    async def scenario() -> None:
        plan = _plan(tmp_path, _script("sleeper", RECORD.format(name="sleeper") + "signal.pause()"))
        supervisor = Supervisor(plan, tmp_path, lambda name, text: said.append((name, text)))
        await supervisor.start()
        await _until(lambda: len(_pids(tmp_path / "sleeper")) == 1)
        os.kill(_pids(tmp_path / "sleeper")[0], signal.SIGKILL)
        await _until(lambda: len(_pids(tmp_path / "sleeper")) == 2)
        await supervisor.stop()

    asyncio.run(scenario())
    assert not any(_alive(pid) for pid in _pids(tmp_path / "sleeper"))
    assert said[0] == ("sleeper", "ready")
    assert said[1][1].startswith("ended with status -9; starting again in 0.5 s")
    assert said[-1] == ("sleeper", "stopped")


def test_a_process_that_ignores_the_signal_is_killed_with_its_children(tmp_path: Path) -> None:
    stubborn = RECORD.format(name="stubborn") + (
        "import subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']);"
        "pathlib.Path(os.environ['FOLDER'], 'child').write_text(f'{child.pid}\\n');"
        "[signal.pause() for _ in iter(int, 1)]"
    )

    async def scenario() -> None:
        plan = _plan(tmp_path, _script("stubborn", stubborn, stop_timeout_s=0.2))
        supervisor = Supervisor(plan, tmp_path, lambda _name, _text: None)
        await supervisor.start()
        await _until(lambda: bool(_pids(tmp_path / "child")))
        await supervisor.stop()
        await _until(lambda: not any(_alive(pid) for pid in _pids(tmp_path / "child")))

    asyncio.run(scenario())
    assert not any(_alive(pid) for pid in _pids(tmp_path / "stubborn"))


def test_a_process_that_cannot_start_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    broken = ProcessSpec("broken", (sys.executable, "-c", "raise SystemExit('no such port')"), ready_port=1)

    async def scenario() -> None:
        supervisor = Supervisor(_plan(tmp_path, broken), tmp_path, lambda _name, _text: None)
        try:
            await supervisor.start()
        finally:
            await supervisor.stop()

    with pytest.raises(StartError, match=r"broken ended with status 1\nno such port"):
        asyncio.run(scenario())


def test_processes_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio
from pathlib import Path
from tests.integration.test_supervisor import RECORD, _plan, _script
from controller.local.up.supervisor import Supervisor

async def main():
    plan = _plan(Path({str(tmp_path)!r}), _script("child", RECORD.format(name="child") + "signal.pause()"))
    supervisor = Supervisor(plan, Path({str(tmp_path)!r}), lambda name, text: None)
    await supervisor.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2]) as parent:
        asyncio.run(_until(lambda: bool(_pids(tmp_path / "child"))))
        parent.kill()
    (pid,) = _pids(tmp_path / "child")
    asyncio.run(_until(lambda: not _alive(pid)))
