"""The embedded cluster as a process of its own, on a free port with a folder of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
import requests
import yaml

from dvcr.config import as_environment

# `dvcr` with this one command: the others' imports would only make each test slower.
_DVCR_CLUSTER = """
from controller.local.commands import register
from dvcr.cli.main import app
register(app)
app(["cluster"], prog_name="dvcr")
"""


@dataclass
class ClusterProcess:
    """`dvcr cluster` over the folder `root`. It can be killed and started again on the same data and port."""

    root: Path
    port: int = 0
    url: str = ""
    process: "subprocess.Popen[str] | None" = field(default=None, repr=False)

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    @property
    def ca_file(self) -> Path:
        return self.root / "data" / "ca.crt"

    @property
    def token(self) -> str:
        config = yaml.safe_load(self.kubeconfig.read_text())
        return str(config["users"][0]["user"]["token"])

    def start(self) -> None:
        """Start the server and wait until it listens."""
        settings = {
            "cluster": {
                "host": "127.0.0.1",
                "port": self.port,
                "data_dir": self.root / "data",
                "kubeconfig": self.kubeconfig,
            },
            "log": {"style": "json"},
        }
        with (self.root / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _DVCR_CLUSTER],
                env={"PATH": os.environ["PATH"], "HOME": str(self.root), **as_environment(settings)},
                cwd=self.root,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on https://"), f"{line!r}\n{(self.root / 'log').read_text()}"
        self.url = line.split()[-1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop it, unless it was killed."""
        if self.process is not None:
            self.stop()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self._reap()

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it is doing."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    def session(self) -> requests.Session:
        """An HTTP session with the token and the cluster's CA."""
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.ca_file)
        session.headers["Authorization"] = f"Bearer {self.token}"
        return session

    def kubectl(self, *arguments: str, stdin: str | None = None, program: str = "kubectl") -> str:
        """Run kubectl against this cluster; returns what it printed, standard error included. Raises on failure."""
        done = self.try_kubectl(*arguments, stdin=stdin, program=program)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stdout}"
        return done.stdout

    def try_kubectl(
        self, *arguments: str, stdin: str | None = None, program: str = "kubectl"
    ) -> "subprocess.CompletedProcess[str]":
        """As `kubectl`, whatever the exit code."""
        return subprocess.run(
            [program, "--kubeconfig", self.kubeconfig, "--cache-dir", self.root / "kubectl-cache", *arguments],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )

    def _reap(self) -> int:
        assert self.process is not None
        code = self.process.wait(timeout=10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ClusterProcess]:
    """A fresh cluster for one test."""
    yield from _running(tmp_path / "cluster", request)


@pytest.fixture(scope="module")
def shared_cluster(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ClusterProcess]:
    """A cluster for all tests of a module, which use names of their own."""
    yield from _running(tmp_path_factory.mktemp("shared-cluster") / "cluster", request)


def _running(root: Path, request: pytest.FixtureRequest) -> Iterator[ClusterProcess]:
    from tests.support.kubernetes import VOLUMES_BY_NODES, KubernetesProcess

    root.mkdir()
    if request.config.getoption("--kubernetes"):
        cluster: ClusterProcess = KubernetesProcess(root, controllers=VOLUMES_BY_NODES)
    else:
        cluster = ClusterProcess(root)
    with cluster:
        yield cluster
    shutil.rmtree(root)
