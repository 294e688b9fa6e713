"""The guest's own words, and its network, in the status of its machine."""

from typing import Any

from controller.api.resource import MACHINE
from controller.launcher.spec import GuestInterface, GuestStatus, MachineState, MachineStatus, NetworkStatus
from tests.unit.controller.test_reconcile_story import running_machine
from tests.unit.controller.world import World

GUEST = GuestStatus(
    agent_version="7.2.22",
    host_name="web",
    os={"id": "debian", "pretty-name": "Debian GNU/Linux 12", "kernel-release": "6.1.0"},
    interfaces=(GuestInterface(name="eth0", mac_address="52:54:00:01:02:03", addresses=("10.0.2.15",)),),
)


def tell(world: World, guest: GuestStatus | None) -> dict[str, Any]:
    world.launchers.status = MachineStatus(state=MachineState.RUNNING, guest=guest)
    world.settle()
    return world.condition(MACHINE, "web", "AgentReady")


def test_an_agent_that_answers_and_one_that_falls_silent() -> None:
    world = World()
    running_machine(world)
    assert world.condition(MACHINE, "web", "AgentReady")["reason"] == "AgentNotReady"

    assert tell(world, GUEST)["status"] == "True"
    status = world.status(MACHINE, "web")
    assert status["guestOSInfo"] == {
        "id": "debian", "prettyName": "Debian GNU/Linux 12", "kernelRelease": "6.1.0", "hostName": "web",
    }  # fmt: skip
    assert status["guestInterfaces"] == [
        {"name": "eth0", "macAddress": "52:54:00:01:02:03", "ipAddresses": ["10.0.2.15"]}
    ]

    condition = tell(world, None)
    assert (condition["status"], condition["reason"]) == ("False", "AgentNotReady")
    assert "qemu-guest-agent" in condition["message"]
    assert world.status(MACHINE, "web")["guestOSInfo"]["id"] == "debian"


def test_a_machine_that_is_off_has_no_guest() -> None:
    world = World()
    running_machine(world)
    tell(world, GUEST)
    world.change(MACHINE, "web", {"runPolicy": "AlwaysOff"})
    world.end_pod("Stopped")
    world.finish_deletion()

    status = world.status(MACHINE, "web")
    assert "guestOSInfo" not in status
    assert "guestInterfaces" not in status
    assert world.condition(MACHINE, "web", "AgentReady")["reason"] == "NotRunning"


def test_a_network_that_works_one_that_is_down_and_one_that_is_less() -> None:
    world = World()
    running_machine(world)

    def reason(network: NetworkStatus | None) -> tuple[str, str, str]:
        world.launchers.status = MachineStatus(state=MachineState.RUNNING, network=network)
        world.settle()
        condition = world.condition(MACHINE, "web", "NetworkReady")
        return condition["status"], condition["reason"], condition["message"]

    assert reason(NetworkStatus(kind="passt"))[:2] == ("True", "Passt")
    assert reason(NetworkStatus(kind="passt", trouble="passt is dead")) == ("False", "NetworkDown", "passt is dead")
    assert reason(NetworkStatus(kind="user"))[:2] == ("True", "UserNetworking")
    assert reason(None)[:2] == ("True", "UserNetworking")
    world.end_pod("GuestShutdown")
    world.settle()
    assert world.condition(MACHINE, "web", "NetworkReady")["reason"] == "NotRunning"
