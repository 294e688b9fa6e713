"""A machine's pod without a cluster: `dvcr-launcher` as a process in a folder, and the guest that it boots."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
import urllib3

from controller.launcher.spec import (
    HEALTH_PORT,
    SPEC_PATH,
    STATUS_PORT,
    MachineSpec,
    MachineState,
    MachineStatus,
    Termination,
    machine_identity,
)
from controller.machines.authority import MachineAuthority
from demo import guest
from tests.support.memory_cluster import MemoryCluster

LAUNCHER = (sys.executable, "-m", "controller.launcher.main")
# Boots are counted in a file of the test run; each pod gets a loopback address that no other has.
_addresses = (f"127.99.{os.getpid() % 250}.{n}" for n in count(1))


def next_address() -> str:
    """A loopback address that no other pod of this test run has."""
    return next(_addresses)


AUTHORITY = MachineAuthority(MemoryCluster(), "tests")
"""Of all pods in the tests."""


@pytest.fixture(scope="session")
def guest_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's disk, a qcow2 to be copied or imported, not written."""
    return guest.build(tmp_path_factory.mktemp("guest") / "guest.qcow2")


class LauncherPod:
    """A launcher in a pod folder of its own; leaving the context kills what is left of it."""

    def __init__(
        self, folder: Path, spec: MachineSpec, settings: Mapping[str, str], command: Sequence[str] = LAUNCHER
    ) -> None:
        self.root = folder / "root"
        self.address = next_address()
        self._log = folder / "stdout"
        self._settings = settings
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        path = self.root / SPEC_PATH.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(spec.model_dump_json())
        self._identity = machine_identity(spec.uid)
        for name, content in AUTHORITY.issue(spec.uid).items():
            (path.parent / name).write_bytes(content)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    def start(self) -> Self:
        """Start the launcher, anew after it has ended."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("DVCR__")}
        environment |= {"DVCR_POD_ROOT": str(self.root), "POD_IP": self.address, **self._settings}
        with self._log.open("wb") as stdout, (self._log.parent / "stderr").open("ab") as stderr:
            self._process = subprocess.Popen(self._command, env=environment, stdout=stdout, stderr=stderr)
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def request(self, method: str, path: str, body: str | None = None) -> bytes:
        """What the launcher answers to the controller; urllib3.exceptions.HTTPError where it does not."""
        context = AUTHORITY.client_context()
        host = urllib3.HTTPSConnectionPool(
            self.address, STATUS_PORT, ssl_context=context, server_hostname=self._identity, timeout=10
        )
        with host:
            answer = host.request(method, path, body=body, retries=False)
        assert answer.status < 300, answer.data
        return answer.data

    def health(self) -> int:
        """The status of `/healthz`."""
        return urllib3.request("GET", f"http://{self.address}:{HEALTH_PORT}/healthz", timeout=10).status

    @asynccontextmanager
    async def websocket(self, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """As the controller."""
        url = f"wss://{self.address}:{STATUS_PORT}{path}"
        tls = AUTHORITY.client_context()
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, ssl=tls, server_hostname=self._identity) as socket,
        ):
            yield socket

    def console(self) -> str:
        """What the guest has written since the start."""
        return self._log.read_bytes().decode(errors="replace")

    def wait_for_console(self, text: str, timeout_s: float = 60) -> str:
        """Wait until the guest has written `text`; the whole console."""
        self.wait_until(lambda: text in self.console(), timeout_s, f"{text!r} on the console")
        return self.console()

    def status(self) -> MachineStatus:
        return MachineStatus.model_validate_json(self.request("GET", "/status"))

    def wait_for_state(self, state: MachineState, timeout_s: float = 30) -> MachineStatus:
        """Wait for that state; the status with it."""
        found: list[MachineStatus] = []

        def reached() -> bool:
            try:
                found.append(self.status())
            except urllib3.exceptions.HTTPError:
                return False
            return found[-1].state is state

        self.wait_until(reached, timeout_s, f"state {state}")
        return found[-1]

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                if condition():
                    return
                stderr = (self._log.parent / "stderr").read_text()
                raise AssertionError(f"no {what}; console:\n{self.console()}\nlauncher:\n{stderr}")
            time.sleep(0.05)

    def terminate(self) -> Termination:
        """As a pod is deleted: SIGTERM, and what the launcher says then."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, timeout_s: float = 60) -> Termination:
        """Wait for the launcher's end; its last word."""
        self.process.wait(timeout_s)
        return Termination.model_validate(json.loads((self.root / "dev/termination-log").read_text()))

    def qemu_pids(self) -> Iterator[int]:
        """Processes of QEMU whose launcher is or was this one."""
        marker = f"guest=tests/{self.root.parent.name}".encode()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    arguments = (folder / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if marker in arguments and arguments[0].startswith(b"qemu"):
                    yield int(folder.name)


def machine_spec(folder: Path, **changes: Any) -> MachineSpec:
    """A small machine named after its pod's folder; `changes` as the fields of MachineSpec."""
    values: dict[str, Any] = {
        "name": folder.name,
        "namespace": "tests",
        "uid": "7f4d3c1a-0000-4000-8000-000000000001",
        "cores": 1,
        "memory_bytes": 256 * 2**20,
        "disks": (),
        "grace_period_s": 20,
    }
    return MachineSpec.model_validate(values | changes)
