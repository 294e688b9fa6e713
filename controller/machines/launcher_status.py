"""Talking to the launchers in machines' pods."""

import base64
import ssl
from collections.abc import Mapping
from typing import Protocol

import urllib3
from pydantic import ValidationError

from controller.launcher.spec import (
    CREDENTIALS_HEADER,
    STATUS_PORT,
    CaptureSpec,
    DiskWishes,
    MachineSpec,
    MachineStatus,
    MigrationOrder,
    WorkStatus,
    machine_identity,
)
from controller.machines.authority import MachineAuthority
from controller.machines.pod import is_ready, machine_uid
from controller.machines.visit import Flow, Visit
from controller.runtime.index import Object
from dvcr.client.credentials import Credentials
from dvcr.errors import DvcrError

_TIMEOUT_S = 2
_END_TIMEOUT_S = 10
_SLOW_TIMEOUT_S = 20
"""For what waits for QEMU."""
_CONNECTIONS = 4096
"""Launchers whose connections are kept at most: a new one costs ten times what a question on an old one does."""


class LauncherError(DvcrError):
    """A launcher did not answer, or refused."""

    default_reason = "LauncherUnavailable"


class LauncherStatus(Protocol):
    """How a running machine is, from the launcher in its pod."""

    def read(self, pod: Object) -> MachineStatus | None:
        """The status; None if the launcher does not answer."""
        ...

    def want(self, pod: Object, wishes: DiskWishes) -> bool:
        """Tell what is wanted of the machine's disks; whether the launcher took it."""
        ...


class HttpLauncherStatus:
    """LauncherStatus, and what moving a machine needs, over HTTPS with the controller's certificate."""

    def __init__(self, authority: MachineAuthority, max_connections: int) -> None:
        """`max_connections`: what the process may have open for it."""
        self._authority = authority
        self._connections = min(max_connections, _CONNECTIONS)
        self._pools: tuple[ssl.SSLContext, urllib3.PoolManager] | None = None

    def read(self, pod: Object) -> MachineStatus | None:
        try:
            return MachineStatus.model_validate_json(self._request("GET", pod, "/status"))
        except (LauncherError, ValidationError):
            # A launcher that starts, stops or hangs: the pod's own state tells the rest.
            return None

    def want(self, pod: Object, wishes: DiskWishes) -> bool:
        try:
            self._request("PUT", pod, "/disks", wishes.model_dump_json())
        except LauncherError:
            return False  # as above
        return True

    def capture(
        self, pod: Object, image_uid: str, spec: CaptureSpec, credentials: Credentials | None
    ) -> WorkStatus | None:
        """As LauncherCaptures."""
        headers = {}
        if credentials is not None:
            headers[CREDENTIALS_HEADER] = base64.urlsafe_b64encode(credentials.write()).decode()
        try:
            answer = self._request("PUT", pod, f"/captures/{image_uid}", spec.model_dump_json(), headers=headers)
            return WorkStatus.model_validate_json(answer)
        except (LauncherError, ValidationError):
            return None

    def end_capture(self, pod: Object, image_uid: str) -> bool:
        """As LauncherCaptures."""
        try:
            self._request("DELETE", pod, f"/captures/{image_uid}", timeout_s=_END_TIMEOUT_S)
        except LauncherError:
            return False
        return True

    def specification(self, pod: Object) -> MachineSpec:
        return MachineSpec.model_validate_json(self._request("GET", pod, "/machine"))

    def send(self, pod: Object, order: MigrationOrder) -> None:
        self._request("PUT", pod, "/migration", order.model_dump_json())

    def cancel(self, pod: Object) -> None:
        self._request("DELETE", pod, "/migration")

    def roll_back(self, pod: Object) -> None:
        self._request("POST", pod, "/migration/rollback", timeout_s=_SLOW_TIMEOUT_S)

    def resume(self, pod: Object) -> None:
        self._request("POST", pod, "/migration/resume", timeout_s=_SLOW_TIMEOUT_S)

    def _request(
        self,
        method: str,
        pod: Object,
        path: str,
        body: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> bytes:
        """The answer of the launcher in `pod`; LauncherError, retryable where it does not answer."""
        address = (pod.get("status") or {}).get("podIP")
        name = pod["metadata"]["name"]
        if not address:
            raise LauncherError(f"pod {name!r} has no address yet", retryable=True)
        # A pod's address is not in its certificate: the machine's name is.
        host = self._manager().connection_from_host(
            address, STATUS_PORT, "https", {"server_hostname": machine_identity(machine_uid(pod))}
        )
        kind = {"Content-Type": "application/json"} if body is not None else {}
        try:
            answer = host.request(
                method, path, body, headers={**kind, **(headers or {})}, timeout=timeout_s, retries=False
            )
        except urllib3.exceptions.HTTPError as exc:
            raise LauncherError(f"the launcher of pod {name!r} does not answer: {exc}", retryable=True) from exc
        if answer.status >= 300:
            text = answer.data.decode(errors="replace").strip()
            raise LauncherError(f"the launcher of pod {name!r} refused: {text}", retryable=answer.status >= 500)
        return answer.data

    def _manager(self) -> urllib3.PoolManager:
        context = self._authority.client_context()
        if self._pools is None or self._pools[0] is not context:
            self._pools = context, urllib3.PoolManager(self._connections, ssl_context=context)
        return self._pools[1]


class Observe:
    """The step that asks the launcher how the machine is, or what its start waits for."""

    def __init__(self, launchers: LauncherStatus) -> None:
        self._launchers = launchers

    def __call__(self, visit: Visit) -> Flow:
        pod = visit.pod or {}
        status = pod.get("status") or {}
        if not status.get("podIP") or status.get("phase") != "Running":
            return Flow.ON
        launcher = self._launchers.read(pod)
        # Its word comes before the pod's readiness, which is the same and told later: a machine that has just moved
        # does not start.
        if is_ready(pod) or (launcher is not None and launcher.state.has_guest):
            visit.launcher = launcher
        elif launcher is not None:
            visit.held_up = launcher.message
        return Flow.ON
