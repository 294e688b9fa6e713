"""What a machine wrote last before its run ended: a crash can be looked at while the machine is off.

It is as secret as the console itself, so it is kept in the machine's Secret and not in its status.
"""

import base64
from contextlib import suppress

from controller.api.resource import SECRET
from controller.machines.pod import pod_name
from controller.runtime.errors import MissingError
from controller.runtime.port import ClusterPort

KEY = "last-output"


def keep_output(cluster: ClusterPort, namespace: str, machine: str, output: str) -> None:
    """Remember the end of the run that is over, instead of that of the one before. Idempotent."""
    if last_output(cluster, namespace, machine) == output.encode():
        return
    data = {KEY: base64.b64encode(output.encode()).decode()}
    # Without its Secret the machine is being removed.
    with suppress(MissingError):
        cluster.patch(SECRET, pod_name(machine), {"data": data}, namespace)


def last_output(cluster: ClusterPort, namespace: str, machine: str) -> bytes | None:
    """What is remembered; None if no run has ended yet."""
    secret = cluster.get(SECRET, pod_name(machine), namespace)
    data = ((secret or {}).get("data") or {}).get(KEY)
    return None if data is None else base64.b64decode(data)
