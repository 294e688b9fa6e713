"""The addresses of the machine API: an aggregated API of the cluster, which the controller serves."""

from controller.api.resource import GROUP as RESOURCE_GROUP
from controller.api.resource import MACHINE, VERSION

GROUP = f"subresources.{RESOURCE_GROUP}"
GROUP_VERSION = f"{GROUP}/{VERSION}"
ROOT = f"/apis/{GROUP_VERSION}"
CONSOLE, VNC, PORT_FORWARD, SCREENSHOT, LOG = "console", "vnc", "portforward", "screenshot", "log"
SUBRESOURCES = (CONSOLE, VNC, PORT_FORWARD, SCREENSHOT, LOG)


def machine_path(namespace: str, name: str, subresource: str, port: int | None = None) -> str:
    """The path of one way to a machine; `port` only for a port-forward."""
    end = f"/{port}" if port is not None else ""
    return f"{ROOT}/namespaces/{namespace}/{MACHINE.plural}/{name}/{subresource}{end}"
