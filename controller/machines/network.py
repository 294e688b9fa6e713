"""How the network of a guest that runs is, as its launcher tells."""

from controller.machines.pod import is_ready
from controller.machines.visit import Flow, Visit

NETWORK_READY = "NetworkReady"


def network_facts(visit: Visit) -> Flow:
    """The step: the condition; a launcher that does not answer changes nothing."""
    machine, launcher = visit.machine, visit.launcher
    if launcher is not None and launcher.network is not None:
        network = launcher.network
        if network.trouble:
            machine.condition(NETWORK_READY, False, "NetworkDown", network.trouble)
        elif network.kind == "passt":
            machine.condition(NETWORK_READY, True, "Passt", "the guest's ports answer at the machine's address")
        else:
            message = "QEMU's user networking: the guest reaches the launcher's loopback address; install passt"
            machine.condition(NETWORK_READY, True, "UserNetworking", message)
    elif visit.pod is None or not is_ready(visit.pod):
        machine.condition(NETWORK_READY, False, "NotRunning", "the guest does not run")
    return Flow.ON
