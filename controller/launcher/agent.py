"""A client of the QEMU guest agent, over the unix socket that QEMU joins to the agent's serial port in the guest.

The other end is the guest's to write: answers are bounded in size and time, and whatever does not look like one ends
the connection. The next command makes a new one and synchronises: what the guest still had to say to earlier questions
is thrown away. So nothing else is needed after a reboot of the guest or a restart of its agent.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from dvcr.errors import DvcrError

MAX_ANSWER_BYTES = 2**20
ANSWER_TIMEOUT_S = 5.0
FREEZE_TIMEOUT_S = 60.0
# Never part of UTF-8: the agent drops what came before it, and puts it before the answer to `guest-sync-delimited`.
SENTINEL = b"\xff"

log = structlog.get_logger(__name__)


class AgentError(DvcrError):
    """No agent answers in the guest, or not as one does."""

    default_reason = "GuestAgentUnavailable"
    default_retryable = True


class AgentRefusedError(AgentError):
    """The agent is there and refused the command."""

    default_reason = "GuestAgentRefused"
    default_retryable = False


class GuestAgent:
    """The agent of one guest. Commands take their turn."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._turn = asyncio.Lock()
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._freezes = 0

    async def execute(self, command: str, *, timeout_s: float = ANSWER_TIMEOUT_S, **arguments: Any) -> Any:
        """What the agent returns. Underscores in the names of arguments stand for hyphens.

        AgentRefusedError with the agent's own words, AgentError if there is no (sensible) answer in time.
        """
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        async with self._turn:
            answer = await self._exchange(request, timeout_s)
        if "error" in answer:
            raise AgentRefusedError(f"the guest agent refused {command}: {_described(answer['error'])}")
        return answer.get("return")

    @asynccontextmanager
    async def frozen(self, timeout_s: float = FREEZE_TIMEOUT_S) -> AsyncIterator[None]:
        """Hold all writes to the guest's file systems while the context is entered.

        AgentError if they cannot be frozen. They are thawed also after a freeze that failed half-way or was not
        answered; where that fails, `thaw_forgotten` does it.
        """
        await self.execute("guest-ping")
        self._freezes += 1
        try:
            await self.execute("guest-fsfreeze-freeze", timeout_s=timeout_s)
            yield
        finally:
            self._freezes -= 1
            try:
                await asyncio.shield(self.execute("guest-fsfreeze-thaw", timeout_s=timeout_s))
            except AgentError as exc:
                log.warning("cannot thaw the guest's file systems yet", why=exc.message)

    async def thaw_forgotten(self) -> None:
        """Thaw file systems that are frozen though nobody holds them so. AgentError if the agent does not answer."""
        if not self._freezes and await self.execute("guest-fsfreeze-status") == "frozen":
            log.warning("thawing file systems that somebody left frozen")
            await self.execute("guest-fsfreeze-thaw", timeout_s=FREEZE_TIMEOUT_S)

    async def close(self) -> None:
        """Give the connection up; a later command makes a new one."""
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None

    async def _exchange(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        command = request["execute"]
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = self._stream or await self._connect()
                await _send(writer, request)
                return _parsed(await reader.readuntil(b"\n"))
        except TimeoutError as exc:
            await self.close()
            raise AgentError(f"the guest agent did not answer {command} within {timeout_s:g} s") from exc
        except asyncio.LimitOverrunError as exc:
            await self.close()
            raise AgentError(f"the guest agent's answer to {command} is over {MAX_ANSWER_BYTES} bytes") from exc
        except (OSError, EOFError) as exc:
            await self.close()
            raise AgentError(f"no connection to the guest agent: {exc}") from exc
        except ValueError as exc:
            await self.close()
            raise AgentError(f"the guest agent's answer to {command} makes no sense: {exc}") from exc
        except asyncio.CancelledError:
            # Its answer would be taken for that to the next question.
            await self.close()
            raise

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=MAX_ANSWER_BYTES)
        self._stream = reader, writer
        number = secrets.randbelow(2**31)
        writer.write(SENTINEL)
        await _send(writer, {"execute": "guest-sync-delimited", "arguments": {"id": number}})
        while True:
            await reader.readuntil(SENTINEL)
            # Also the answers to earlier questions of this kind have a sentinel.
            if _parsed(await reader.readuntil(b"\n")).get("return") == number:
                return reader, writer


async def _send(writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
    writer.write(json.dumps(request).encode() + b"\n")
    await writer.drain()


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not isinstance(answer, dict):
        raise ValueError("it is no object")
    return answer


def _described(error: Any) -> str:
    return str(error.get("desc") or error)[:500] if isinstance(error, dict) else str(error)[:500]
