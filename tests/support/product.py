"""The whole product: `dvcr up` as a user starts it, and the commands that the user gives it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support.waiting import eventually

BIN = Path(sys.executable).parent
COMMAND_TIMEOUT_S = 120
UP_TIMEOUT_S, DOWN_TIMEOUT_S = 90, 90


@dataclass(frozen=True, slots=True)
class Product:
    """A running `dvcr up`."""

    data: Path
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "KUBECONFIG": str(self.data / "kubeconfig"),
            "DVCR__CLIENT__URL": f"http://{self.registry}",
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }

    @property
    def registry(self) -> str:
        """Host and port of the registry."""
        return f"127.0.0.1:{json.loads((self.data / 'ports.json').read_text())['registry']}"

    def run(
        self, *command: str | Path, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """A command with this product's kubeconfig and registry; with `check`, it must succeed."""
        done = subprocess.run(
            [str(c) for c in command],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
        return done

    def dvcr(
        self, *arguments: str | Path, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """`dvcr` with these arguments."""
        return self.run(BIN / "dvcr", *arguments, stdin=stdin, check=check)

    def apply(self, *objects: dict[str, Any]) -> None:
        """`dvcr apply` of these resources."""
        self.dvcr("apply", "-f", "-", stdin="\n---\n".join(json.dumps(o) for o in objects))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """The resource, as `dvcr get -o json` prints it."""
        value: dict[str, Any] = json.loads(self.dvcr("get", kind, name, "-o", "json").stdout)
        return value

    def wait_for_phase(self, kind: str, name: str, *phases: str, timeout_s: float = 90) -> dict[str, Any]:
        """The resource once its phase is one of `phases`."""
        deadline = time.monotonic() + timeout_s
        while (found := self.get(kind, name)).get("status", {}).get("phase") not in phases:
            assert time.monotonic() < deadline, f"{kind} {name} is not {phases}: {json.dumps(found, indent=1)}"
            time.sleep(0.2)
        return found

    def stop(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(DOWN_TIMEOUT_S)


@contextmanager
def running_product(
    data: Path, settings: Mapping[str, str] = MappingProxyType({}), kubeconfig: Path | None = None
) -> Iterator[Product]:
    """`dvcr up` on `data` until the end of the context, with these variables in its environment.

    With `kubeconfig`, that API server takes the embedded one's place.
    """
    data.mkdir(parents=True, exist_ok=True)
    log = data.parent / f"{data.name}.up.log"
    command: list[str | Path] = [BIN / "dvcr", "up", "--data", data]
    if kubeconfig is not None:
        shutil.copy(kubeconfig, data / "kubeconfig")
        command = [sys.executable, "-m", "tests.support.up_without_cluster", data]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            # An import that fails for good takes seconds, not the minutes that a source may be away for.
            env=os.environ | {"DVCR__IMPORTER__ATTEMPTS": "2", "DVCR__IMPORTER__RETRY_WAIT_S": "0.5", **settings},
            stdout=output,
            stderr=output,
        )
    try:

        def is_up() -> bool:
            assert process.poll() is None, log.read_text()
            return "DVCR is up" in log.read_text()

        eventually(is_up, "dvcr up", UP_TIMEOUT_S)
        yield Product(data, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(DOWN_TIMEOUT_S)
