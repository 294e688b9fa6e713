"""What the guest agent tells, in the status of the machine."""

from pydantic.alias_generators import to_camel

from controller.api.machine import GuestInterface, MachineStatus
from controller.launcher.spec import GuestStatus
from controller.machines.pod import is_ready
from controller.machines.visit import Flow, Visit
from controller.runtime.subject import Subject

AGENT_READY = "AgentReady"


def guest_facts(visit: Visit) -> Flow:
    """The step: show what the agent of a guest that runs tells; a launcher that does not answer changes nothing."""
    if visit.launcher is not None:
        show_guest(visit.machine, visit.launcher.guest)
    elif visit.pod is None or not is_ready(visit.pod):
        forget_guest(visit.machine)
    return Flow.ON


def show_guest(machine: Subject[MachineStatus], guest: GuestStatus | None) -> None:
    """Show what the guest says of itself; what it said last stays while only its agent is silent."""
    if guest is None:
        machine.condition(AGENT_READY, False, "AgentNotReady", "no guest agent answers (package qemu-guest-agent)")
        return
    machine.condition(AGENT_READY, True, "AgentReady", f"guest agent {guest.agent_version} answers")
    told = {to_camel(name.replace("-", "_")): text for name, text in guest.os.items()}
    if guest.host_name:
        told["hostName"] = guest.host_name
    machine.status.guest_os_info = told or None
    machine.status.guest_interfaces = [
        GuestInterface(
            name=interface.name or None,
            mac_address=interface.mac_address or None,
            ip_addresses=list(interface.addresses),
        )
        for interface in guest.interfaces
    ] or None


def forget_guest(machine: Subject[MachineStatus]) -> None:
    """The guest does not run."""
    machine.status.guest_os_info = machine.status.guest_interfaces = None
    machine.condition(AGENT_READY, False, "NotRunning", "the guest does not run")
