"""Readiness probes: whether a container may be sent traffic."""

import http.client
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class ProbeTarget:
    """What a probe needs to know of the container that it asks."""

    address: str
    ports: Sequence[Object]
    env: Mapping[str, str]
    cwd: Path


@dataclass
class Verdict:
    """Turns single results into ready or not, by the probe's thresholds."""

    success_threshold: int = 1
    failure_threshold: int = 3
    ready: bool = False
    _run: int = field(default=0, init=False)
    _last: bool | None = field(default=None, init=False)

    def add(self, success: bool) -> bool:
        """Take a result into account; returns whether the container is ready now."""
        self._run = self._run + 1 if success == self._last else 1
        self._last = success
        if self._run >= (self.success_threshold if success else self.failure_threshold):
            self.ready = success
        return self.ready


class Prober:
    """Runs a readiness probe in a thread of its own until `stop`; tells changes through `on_change`."""

    def __init__(self, probe: Object, target: ProbeTarget, on_change: Callable[[str], None], *, ready: bool) -> None:
        self._probe = probe
        self._target = target
        self._on_change = on_change
        self._verdict = Verdict(probe.get("successThreshold", 1), probe.get("failureThreshold", 3), ready)
        self._stopping = threading.Event()
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    @property
    def ready(self) -> bool:
        return self._verdict.ready

    def stop(self) -> None:
        """Run no further probe. Idempotent; does not wait for one that is running."""
        self._stopping.set()

    def _run(self) -> None:
        delay_s = float(self._probe.get("initialDelaySeconds", 0))
        complained = False
        while not self._stopping.wait(delay_s):
            delay_s = float(self._probe.get("periodSeconds", 10))
            failure = run_probe(self._probe, self._target)
            if self._stopping.is_set():
                return
            before = self._verdict.ready
            if self._verdict.add(not failure) != before or (failure and not complained):
                self._on_change(failure)
            complained = bool(failure)


def run_probe(probe: Object, target: ProbeTarget) -> str:
    """Ask once; empty when the container is ready, else what was wrong."""
    timeout_s = float(probe.get("timeoutSeconds", 1))
    try:
        if "httpGet" in probe:
            return _http_get(probe["httpGet"], target, timeout_s)
        if "tcpSocket" in probe:
            address = (probe["tcpSocket"].get("host") or target.address, port_number(probe["tcpSocket"], target.ports))
            socket.create_connection(address, timeout_s).close()
            return ""
        if "exec" in probe:
            return _exec(probe["exec"]["command"], target, timeout_s)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        return str(exc) or type(exc).__name__
    return "the node supports httpGet, tcpSocket and exec probes"


def port_number(action: Object, ports: Sequence[Object]) -> int:
    """The port of a probe, which may be the name of one of the container's ports. ValueError if there is none."""
    port = action["port"]
    if isinstance(port, int) or str(port).isdigit():
        return int(port)
    for known in ports:
        if known.get("name") == port:
            return int(known["containerPort"])
    raise ValueError(f"the container has no port named {port!r}")


def _http_get(action: Object, target: ProbeTarget, timeout_s: float) -> str:
    host = action.get("host") or target.address
    secure = action.get("scheme", "HTTP").upper() == "HTTPS"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(host, port_number(action, target.ports), timeout=timeout_s)
    headers = {header["name"]: header["value"] for header in action.get("httpHeaders") or ()}
    try:
        connection.request("GET", action.get("path") or "/", headers=headers)
        status = connection.getresponse().status
    finally:
        connection.close()
    return "" if 200 <= status < 400 else f"HTTP probe failed with statuscode: {status}"


def _exec(command: Sequence[str], target: ProbeTarget, timeout_s: float) -> str:
    process = subprocess.Popen(
        list(command),
        cwd=target.cwd,
        env=dict(target.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return f"command {command[0]!r} took longer than {timeout_s:g} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return "" if code == 0 else f"command {command[0]!r} exited with {code}"
