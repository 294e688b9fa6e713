"""A real registry for tests: `dvcr serve` in its own process, on a free port, over a temporary folder."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import requests

START_TIMEOUT_S = 60

# `dvcr serve` without the commands of the other packages, which the registry does not need to start.
_SERVE = "from dvcr.cli import main, serve; serve.register(main.app); main.app()"


class RegistryServer:
    """`dvcr serve` over `root`. A context manager; can be killed and started again over the same root."""

    def __init__(self, root: Path, environment: dict[str, str] | None = None, command: tuple[str, ...] = ()) -> None:
        self.root = root
        self.url = ""
        self._environment = environment or {}
        self._command = command
        self._process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT, as image references begin."""
        return self.url.partition("://")[2]

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start the server on a free port and wait until it listens."""
        return self.start_at(0)

    def start_at(self, port: int) -> Self:
        """As `start`, on this port."""
        environment = os.environ | {"DVCR__STORAGE__FILESYSTEM__ROOT": str(self.root), "DVCR__LOG__LEVEL": "warning"}
        self._process = subprocess.Popen(
            [*self._command, sys.executable, "-c", _SERVE, "serve", "--host", "127.0.0.1", "--port", str(port)],
            env=environment | self._environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        watchdog = threading.Timer(START_TIMEOUT_S, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        assert line.startswith("listening on "), f"the registry did not start: {line!r}"
        self.url = line.split()[-1]
        return self

    def stop(self) -> int:
        """End it as a user would, with SIGTERM; gives the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self.wait()

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self.wait()

    def stored_bytes(self) -> int:
        """Bytes of all blobs in the store."""
        total = 0
        for folder, _, files in os.walk(self.root / "blobs"):  # which bears that garbage collection removes folders
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    total += (Path(folder) / name).stat().st_size
        return total

    def wait(self) -> int:
        """Wait until it has ended; gives the exit code."""
        assert self._process is not None
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            if self._process.stdout:
                self._process.stdout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()


@pytest.fixture(scope="session")
def registry_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """One registry for all tests of a run; tests keep to repositories of their own."""
    with RegistryServer(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def registry_url(registry_server: RegistryServer) -> str:
    """Address of the shared registry."""
    return registry_server.url


@pytest.fixture
def fresh_registry(tmp_path: Path) -> Iterator[RegistryServer]:
    """A registry of the test's own, to kill or to look into."""
    with RegistryServer(tmp_path / "registry") as server:
        yield server


@pytest.fixture
def http() -> Iterator[requests.Session]:
    """A plain HTTP client."""
    with requests.Session() as session:
        yield session
