"""What the guest says about itself, through its agent: asked again and again, kept for the machine's status.

All of it is the guest's to invent. What is kept is bounded and free of control characters, and addresses are addresses.
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

import structlog

from controller.launcher.agent import AgentError, AgentRefusedError
from controller.launcher.spec import GuestInterface, GuestStatus

ASK_INTERVAL_S = 10.0
SEARCH_INTERVAL_S = 2.0
MAX_TEXT_LENGTH = 256
MAX_INTERFACES = 32
MAX_ADDRESSES = 32
OS_FIELDS = (
    "id", "name", "pretty-name", "version", "version-id", "machine", "kernel-release", "kernel-version",
)  # fmt: skip

log = structlog.get_logger(__name__)


class AgentPort(Protocol):
    """As GuestAgent, which says what the methods promise."""

    async def execute(self, command: str) -> Any: ...

    async def thaw_forgotten(self) -> None: ...


class GuestWatcher:
    """Asks the agent while `run` runs. `status` is None as long as no agent answers."""

    def __init__(self, agent: AgentPort, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._agent = agent
        self._sleep = sleep
        self.status: GuestStatus | None = None

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            known = self.status
            try:
                self.status = await self._ask(known or GuestStatus())
            except AgentError as exc:
                self.status = None
                if known is not None:
                    log.info("the guest agent is gone", why=exc.message)
            else:
                if known is None:
                    log.info("the guest agent answers", version=self.status.agent_version)
            await self._sleep(ASK_INTERVAL_S if self.status is not None else SEARCH_INTERVAL_S)

    async def _ask(self, known: GuestStatus) -> GuestStatus:
        """`known` with what the agent says now; an agent that refuses a question (frozen, too old) changes nothing."""
        changes: dict[str, Any] = {}
        await self._agent.execute("guest-ping")
        for command, read in _QUESTIONS:
            try:
                changes |= read(await self._agent.execute(command))
            except AgentRefusedError as exc:
                log.debug("the guest agent does not tell", why=exc.message)
        try:
            await self._agent.thaw_forgotten()
        except AgentRefusedError as exc:
            log.debug("the guest agent cannot freeze", why=exc.message)
        return known.model_copy(update=changes)


def _read_version(answer: Any) -> dict[str, Any]:
    return {"agent_version": _text(_field(answer, "version"))}


def _read_host_name(answer: Any) -> dict[str, Any]:
    return {"host_name": _text(_field(answer, "host-name"))}


def _read_os(answer: Any) -> dict[str, Any]:
    told = {name: _text(_field(answer, name)) for name in OS_FIELDS}
    return {"os": {name: text for name, text in told.items() if text}}


def _read_interfaces(answer: Any) -> dict[str, Any]:
    found = [_interface(entry) for entry in _items(answer, MAX_INTERFACES)]
    return {"interfaces": tuple(interface for interface in found if interface.addresses)}


_QUESTIONS: tuple[tuple[str, Callable[[Any], dict[str, Any]]], ...] = (
    ("guest-info", _read_version),
    ("guest-get-host-name", _read_host_name),
    ("guest-get-osinfo", _read_os),
    ("guest-network-get-interfaces", _read_interfaces),
)


def _interface(entry: Any) -> GuestInterface:
    return GuestInterface(
        name=_text(_field(entry, "name")),
        mac_address=_text(_field(entry, "hardware-address")),
        addresses=tuple(_addresses(_field(entry, "ip-addresses"))),
    )


def _addresses(entries: Any) -> Iterator[str]:
    for entry in _items(entries, MAX_ADDRESSES):
        try:
            address = ipaddress.ip_address(_text(_field(entry, "ip-address")))
        except ValueError:
            continue
        if not address.is_loopback:
            yield str(address)


def _items(value: Any, most: int) -> list[Any]:
    return value[:most] if isinstance(value, list) else []


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _text(value: Any) -> str:
    return "".join(c for c in value[:MAX_TEXT_LENGTH] if c.isprintable()) if isinstance(value, str) else ""
