"""The client of the guest agent: against the real agent, and against one that does all that a hostile guest may do."""

import asyncio
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.launcher.agent import MAX_ANSWER_BYTES, AgentError, AgentRefusedError, GuestAgent
from controller.launcher.guest import GuestWatcher
from tests.support.coroutines import in_loop

SENTINEL = b"\xff"
WAIT_S = 30.0


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # short: a socket's path has at most 107 bytes
        yield Path(folder) / "agent.sock"


@pytest.fixture
def real_agent(socket: Path) -> Iterator[Path]:
    """qemu-ga on this machine, without the commands that would change it."""
    command = ["/usr/sbin/qemu-ga", "-m", "unix-listen", "-p", str(socket), "-t", str(socket.parent)]
    command += ["-f", str(socket.parent / "pid"), "-b", "guest-fsfreeze-freeze,guest-shutdown,guest-suspend-ram"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            yield socket
        finally:
            process.kill()


async def appears(path: Path) -> None:
    async with asyncio.timeout(WAIT_S):
        while not path.exists():
            await asyncio.sleep(0.01)


@in_loop
async def test_the_real_agent_answers_and_refuses(real_agent: Path) -> None:
    await appears(real_agent)
    agent = GuestAgent(real_agent)

    info = await agent.execute("guest-info")
    assert {"guest-ping", "guest-get-osinfo"} <= {command["name"] for command in info["supported_commands"]}
    assert await agent.execute("guest-fsfreeze-status") == "thawed"
    with pytest.raises(AgentRefusedError, match="guest-fsfreeze-freeze"):
        async with agent.frozen():
            raise AssertionError("not frozen")
    with pytest.raises(AgentRefusedError, match="no-such"):
        await agent.execute("no-such-command")
    assert await agent.execute("guest-ping") == {}
    await agent.close()


@in_loop
async def test_the_watcher_learns_of_the_real_system(real_agent: Path) -> None:
    await appears(real_agent)
    watcher = GuestWatcher(GuestAgent(real_agent))
    running = asyncio.create_task(watcher.run())
    async with asyncio.timeout(WAIT_S):
        while watcher.status is None:
            await asyncio.sleep(0.01)
    running.cancel()

    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )  # fmt: skip
    assert watcher.status.os["id"] == release["ID"].strip('"')
    assert watcher.status.os["kernel-release"] == Path("/proc/sys/kernel/osrelease").read_text().strip()
    assert watcher.status.host_name == Path("/proc/sys/kernel/hostname").read_text().strip()
    assert watcher.status.agent_version
    assert all(interface.name != "lo" for interface in watcher.status.interfaces)


class Script:
    """An agent whose answers a test writes; `requests` are what it was asked, without the synchronisation."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any]], bytes] = lambda _: b'{"return": {}}\n'
        self.before_sync = b""
        self.synchronises = True
        self.requests: list[dict[str, Any]] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            writer.write(self.before_sync)
            while line := (await reader.readline()).lstrip(SENTINEL):
                request = json.loads(line)
                if request["execute"] == "guest-sync-delimited":
                    if self.synchronises:
                        number = request["arguments"]["id"]
                        writer.write(SENTINEL + json.dumps({"return": number}).encode() + b"\n")
                else:
                    self.requests.append(request)
                    writer.write(self.answer(request))
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()


@asynccontextmanager
async def scripted(socket: Path) -> AsyncIterator[tuple[Script, GuestAgent]]:
    script = Script()
    server = await asyncio.start_unix_server(script.serve, str(socket), limit=2**20)
    agent = GuestAgent(socket)
    try:
        yield script, agent
    finally:
        await agent.close()
        server.close()


async def refused(call: Awaitable[Any]) -> str:
    with pytest.raises(AgentError) as caught:
        await call
    return caught.value.message


@in_loop
async def test_what_the_guest_said_before_is_thrown_away(socket: Path) -> None:
    async with scripted(socket) as (script, agent):
        script.before_sync = b'{"return": "old"}\n' + SENTINEL + b'{"return": 1}\n{"retu'
        script.answer = lambda request: json.dumps({"return": request["execute"]}).encode() + b"\n"

        assert await agent.execute("guest-ping") == "guest-ping"
        assert await agent.execute("guest-info") == "guest-info"
        assert script.connections == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"\x00\xfe garbage\n", "makes no sense"),
        (b"[1, 2]\n", "no object"),
        (b"[" * 100_000 + b"\n", "makes no sense"),
        (b'{"return": ' + b"9" * 5000 + b"}\n", "makes no sense"),
        (b"x" * (3 * MAX_ANSWER_BYTES), "over"),
        (b"", "did not answer guest-info within 0.5 s"),
        (b'{"return": {}', "did not answer"),
    ],
)
@in_loop
async def test_a_bad_answer_is_an_error_and_the_next_question_is_asked_anew(
    socket: Path, answer: bytes, told: str
) -> None:
    async with scripted(socket) as (script, agent):
        script.answer = lambda _: answer
        assert told in await refused(agent.execute("guest-info", timeout_s=0.5))

        script.answer = lambda _: b'{"return": "well"}\n'
        assert await agent.execute("guest-info") == "well"
        assert script.connections == 2


@in_loop
async def test_a_guest_that_never_stops_talking_is_given_up(socket: Path) -> None:
    async with scripted(socket) as (script, agent):
        script.before_sync = b"y" * (4 * MAX_ANSWER_BYTES)
        assert "over" in await refused(agent.execute("guest-ping"))


@in_loop
async def test_no_agent_in_the_guest_and_no_qemu(socket: Path) -> None:
    assert "no connection" in await refused(GuestAgent(socket).execute("guest-ping"))
    async with scripted(socket) as (script, agent):
        script.synchronises = False
        assert "within 0.2 s" in await refused(agent.execute("guest-ping", timeout_s=0.2))
        script.synchronises = True
        assert await agent.execute("guest-ping") == {}


@in_loop
async def test_a_question_that_was_given_up_does_not_lend_its_answer_to_the_next(socket: Path) -> None:
    async with scripted(socket) as (script, agent):
        await agent.execute("guest-ping")
        script.answer = lambda request: b"" if request["execute"] == "slow" else b'{"return": "mine"}\n'
        asked = asyncio.create_task(agent.execute("slow", timeout_s=WAIT_S))
        async with asyncio.timeout(WAIT_S):
            while not any(request["execute"] == "slow" for request in script.requests):
                await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

        assert await agent.execute("guest-ping") == "mine"
        assert script.connections == 2


@in_loop
async def test_a_refusal_carries_the_agents_words_and_keeps_the_connection(socket: Path) -> None:
    async with scripted(socket) as (script, agent):
        script.answer = lambda _: b'{"error": {"class": "GenericError", "desc": "not while frozen"}}\n'
        with pytest.raises(AgentRefusedError, match="not while frozen"):
            await agent.execute("guest-get-osinfo")
        await refused(agent.execute("guest-get-osinfo"))
        assert script.connections == 1


def commands(script: Script) -> list[str]:
    return [request["execute"] for request in script.requests]


@in_loop
async def test_frozen_thaws_whatever_happens_inside(socket: Path) -> None:
    async with scripted(socket) as (script, agent):
        with pytest.raises(RuntimeError, match="inside"):
            async with agent.frozen():
                raise RuntimeError("inside")
        assert commands(script) == ["guest-ping", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]


@in_loop
async def test_a_freeze_without_an_answer_is_thawed_too(socket: Path) -> None:
    async with scripted(socket) as (script, agent):
        script.answer = lambda request: b"" if "freeze-freeze" in request["execute"] else b'{"return": {}}\n'
        with pytest.raises(AgentError, match="within"):
            async with agent.frozen(timeout_s=0.5):
                raise AssertionError("not frozen")
        assert commands(script)[-1] == "guest-fsfreeze-thaw"


@in_loop
async def test_a_freeze_that_somebody_forgot_is_thawed_but_never_one_that_is_held(socket: Path) -> None:
    async with scripted(socket) as (script, agent):
        script.answer = lambda request: (
            b'{"return": "frozen"}\n' if request["execute"].endswith("status") else b'{"return": 1}\n'
        )
        async with agent.frozen():
            await agent.thaw_forgotten()
            assert "guest-fsfreeze-thaw" not in commands(script)
        script.requests.clear()

        await agent.thaw_forgotten()
        assert commands(script) == ["guest-fsfreeze-status", "guest-fsfreeze-thaw"]
