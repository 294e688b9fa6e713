"""What is kept of what a guest tells."""

import asyncio
from typing import Any

import pytest

from controller.launcher.agent import AgentError, AgentRefusedError
from controller.launcher.guest import GuestWatcher
from controller.launcher.spec import GuestInterface, GuestStatus
from tests.support.coroutines import in_loop

OS = {"id": "debian", "name": "Debian GNU/Linux", "pretty-name": "Debian GNU/Linux 12", "kernel-release": "6.1.0"}
LOOPBACK = {"name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": [{"ip-address": "127.0.0.1"}]}
CARD = {
    "name": "eth0",
    "hardware-address": "52:54:00:01:02:03",
    "ip-addresses": [
        {"ip-address-type": "ipv4", "ip-address": "10.0.2.15", "prefix": 24},
        {"ip-address-type": "ipv6", "ip-address": "fe80::1", "prefix": 64},
    ],
}


class ScriptedAgent:
    """Answers from a dict; what is missing is refused, and nothing answers while `there` is False."""

    def __init__(self, **answers: Any) -> None:
        self.there = True
        self.answers = {name.replace("_", "-"): value for name, value in answers.items()}
        self.thawed = 0

    async def execute(self, command: str) -> Any:
        if not self.there:
            raise AgentError("nobody")
        if command == "guest-ping":
            return {}
        if command not in self.answers:
            raise AgentRefusedError(f"{command} is not known")
        return self.answers[command]

    async def thaw_forgotten(self) -> None:
        self.thawed += 1


class Rounds:
    """A sleep that lets `script` act between the rounds, and ends the watcher after the last."""

    def __init__(self, *script: Any) -> None:
        self._script = list(script)
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        if not self._script:
            raise asyncio.CancelledError
        self._script.pop(0)()


async def watched(agent: ScriptedAgent, *script: Any) -> GuestWatcher:
    watcher = GuestWatcher(agent, Rounds(*script))
    with pytest.raises(asyncio.CancelledError):
        await watcher.run()
    return watcher


def full_agent() -> ScriptedAgent:
    return ScriptedAgent(
        guest_info={"version": "7.2.22"},
        guest_get_host_name={"host-name": "web"},
        guest_get_osinfo=OS,
        guest_network_get_interfaces=[LOOPBACK, CARD],
    )


@in_loop
async def test_all_that_a_guest_tells() -> None:
    agent = full_agent()
    watcher = await watched(agent)

    assert watcher.status == GuestStatus(
        agent_version="7.2.22",
        host_name="web",
        os=OS,
        interfaces=(GuestInterface(name="eth0", mac_address="52:54:00:01:02:03", addresses=("10.0.2.15", "fe80::1")),),
    )
    assert agent.thawed == 1


@in_loop
async def test_an_agent_that_knows_little_is_still_an_agent() -> None:
    watcher = await watched(ScriptedAgent(guest_info={"version": "1.0"}))

    assert watcher.status == GuestStatus(agent_version="1.0")


@in_loop
async def test_what_is_refused_for_a_while_stays_known() -> None:
    agent = full_agent()
    watcher = await watched(agent, agent.answers.clear)

    assert watcher.status is not None
    assert watcher.status.host_name == "web"


@in_loop
async def test_an_agent_that_goes_takes_its_word_with_it_and_is_looked_for_more_often() -> None:
    agent = full_agent()
    rounds = Rounds(lambda: setattr(agent, "there", False))
    watcher = GuestWatcher(agent, rounds)
    with pytest.raises(asyncio.CancelledError):
        await watcher.run()

    assert watcher.status is None
    assert rounds.slept == [10.0, 2.0]


@pytest.mark.parametrize("nonsense", [None, 7, "text", [], {}, [[]], {"version": 1, "host-name": [], "id": {}}])
@in_loop
async def test_nonsense_is_no_news(nonsense: Any) -> None:
    names = ("guest_info", "guest_get_host_name", "guest_get_osinfo", "guest_network_get_interfaces")
    watcher = await watched(ScriptedAgent(**dict.fromkeys(names, nonsense)))

    assert watcher.status == GuestStatus()


@in_loop
async def test_a_guest_that_tells_too_much_is_cut_short() -> None:
    entry = {"name": "e\x1b[31m" + "x" * 1000, "ip-addresses": [{"ip-address": f"10.0.0.{n}"} for n in range(200)]}
    agent = ScriptedAgent(
        guest_get_host_name={"host-name": "h" * 1000},
        guest_network_get_interfaces=[entry] * 100,
        guest_get_osinfo={"id": "a\nb", "unknown": "x"},
    )
    status = (await watched(agent)).status

    assert status is not None
    assert (len(status.host_name), len(status.interfaces), len(status.interfaces[0].addresses)) == (256, 32, 32)
    assert "\x1b" not in status.interfaces[0].name
    assert status.os == {"id": "ab"}


@in_loop
async def test_an_address_that_is_none_is_left_out() -> None:
    entry = {"name": "eth0", "ip-addresses": [{"ip-address": "10.0.0.1; rm"}, {"ip-address": "fd00::7"}, 5]}
    status = (await watched(ScriptedAgent(guest_network_get_interfaces=[entry]))).status

    assert status is not None
    assert status.interfaces == (GuestInterface(name="eth0", addresses=("fd00::7",)),)
