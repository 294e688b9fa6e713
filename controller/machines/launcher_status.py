"""Asking a launcher how its machine is."""

from typing import Protocol

import requests
from pydantic import ValidationError

from controller.launcher.spec import STATUS_PORT, MachineStatus
from controller.machines.pod import is_ready
from controller.machines.visit import Flow, Visit

_TIMEOUT_S = 2


class LauncherStatus(Protocol):
    """How a running machine is, from the launcher in its pod."""

    def read(self, address: str) -> MachineStatus | None:
        """The status; None if the launcher does not answer."""
        ...


class HttpLauncherStatus:
    """LauncherStatus over `GET /status`."""

    def read(self, address: str) -> MachineStatus | None:
        host = f"[{address}]" if ":" in address else address
        try:
            response = requests.get(f"http://{host}:{STATUS_PORT}/status", timeout=_TIMEOUT_S)
            response.raise_for_status()
            return MachineStatus.model_validate_json(response.content)
        except (requests.RequestException, ValidationError):
            # A launcher that starts, stops or hangs: the pod's own state tells the rest.
            return None


class Observe:
    """The step that asks the launcher of a machine that runs."""

    def __init__(self, launchers: LauncherStatus) -> None:
        self._launchers = launchers

    def __call__(self, visit: Visit) -> Flow:
        pod = visit.pod or {}
        address = (pod.get("status") or {}).get("podIP")
        if address and is_ready(pod):
            visit.launcher = self._launchers.read(address)
        return Flow.ON
